package loader

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// parse is what read does with a file, of bytes.
func parse(b []byte) (*program, error) {
	h, err := parseHeader(b[:min(len(b), headerSize)])
	if err != nil {
		return nil, err
	}
	if h.phoff > uint64(len(b)) {
		return nil, unix.ENOEXEC
	}
	return parseELF(h, b[h.phoff:min(uint64(len(b)), h.phoff+uint64(h.phnum*phdrSize))], uint64(len(b)))
}

// checkProgram fails where a parsed program breaks what the mapping relies on.
func checkProgram(t *testing.T, p *program, size uint64) {
	t.Helper()
	const page, limit = uint64(platform.PageSize), uint64(platform.TaskSize)
	end := p.low
	for i, s := range p.segments {
		if s.fileSize > s.memSize || s.at > limit || s.memSize > limit-s.at || s.at%page != s.offset%page {
			t.Errorf("segment %d: %+v", i, s)
		}
		if s.fileSize > 0 && (s.offset > size || s.fileSize > size-s.offset) {
			t.Errorf("segment %d reaches beyond a file of %d bytes: %+v", i, size, s)
		}
		if low := s.at &^ (page - 1); low < end {
			t.Errorf("segment %d begins at %#x, before the end %#x of the one below", i, s.at, end)
		}
		end = (s.at + s.memSize + page - 1) &^ (page - 1)
	}
	if len(p.segments) == 0 || end != p.high || p.low%page != 0 || p.align&(p.align-1) != 0 || p.align < page {
		t.Errorf("extent: %+v", p)
	}
	if p.interpLen > 0 && (p.interpAt > size || p.interpLen > size-p.interpAt || p.interpLen > interpMax) {
		t.Errorf("interpreter at %d, %d bytes, of a file of %d", p.interpAt, p.interpLen, size)
	}
}

// self is this test program: a static executable.
func self(tb testing.TB) []byte {
	tb.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestTruncated cuts a program at every byte of its headers, and then some.
func TestTruncated(t *testing.T) {
	whole := self(t)
	p, err := parse(whole)
	if err != nil {
		t.Fatal(err)
	}
	checkProgram(t, p, uint64(len(whole)))
	for cut := 0; cut < len(whole); cut += 1 + cut/1000 {
		if p, err := parse(whole[:cut]); err == nil {
			checkProgram(t, p, uint64(cut)) // what is cut off no segment needed
		} else if !errors.Is(err, unix.ENOEXEC) {
			t.Errorf("cut at %d: %v, want ENOEXEC", cut, err)
		}
	}
}

func FuzzELF(f *testing.F) {
	whole := self(f)
	f.Add(whole[:8192])
	f.Add(whole[:ehdrSize])
	for _, path := range []string{"/bin/sh", "/lib64/ld-linux-x86-64.so.2"} {
		if b, err := os.ReadFile(path); err == nil {
			f.Add(b[:min(len(b), 8192)])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parse(b); err == nil {
			checkProgram(t, p, uint64(len(b)))
		} else if !errors.Is(err, unix.ENOEXEC) && !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v is no errno of execve's", err)
		}
	})
}

func FuzzScript(f *testing.F) {
	for _, s := range []string{"#!/bin/sh\n", "#! /bin/echo  a  b \nx", "#!", "#!\n", "#! \t\n", "#!/a\x00b\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 2 || string(b[:2]) != "#!" {
			return
		}
		interp, arg, err := parseScript(b[:min(len(b), headerSize)])
		if err != nil {
			return
		}
		if interp == "" || len(interp)+len(arg) > len(b) {
			t.Errorf("%q: interpreter %q, argument %q", b, interp, arg)
		}
	})
}
