package boot

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// change is a kernel with a field of its ELF header or of a program header changed.
func change(f func(eh, ph0, ph1 []byte)) []byte {
	b := testKernel([]byte("data"))
	f(b, b[ehSize:], b[ehSize+phSize:])
	return b
}

func changeWrap(f func(b []byte)) []byte {
	b := wrapOf(make([]byte, 100))
	copy(b[4*sector+100:], "\x1f\x8b")
	f(b)
	return b
}

// TestHostile: each is refused with one line that says why.
func TestHostile(t *testing.T) {
	for _, row := range []struct {
		name string
		file []byte
		want string
	}{
		{"nothing", nil, "neither an ELF file nor a bzImage"},
		{"a script", []byte("#!/bin/sh\n"), "neither an ELF file nor a bzImage"},
		{"a bzImage's first sector", wrapOf(nil)[:0x200], "neither an ELF file nor a bzImage"},
		{"cut in ELF's header", testKernel(nil)[:63], "cut short"},
		{"cut in the program headers", testKernel(nil)[:100], "program headers"},
		{"cut in a segment", testKernel(nil)[:0x1004], "unexpected EOF"},
		{"32-bit ELF", change(func(eh, _, _ []byte) { eh[4] = 1 }), "another machine"},
		{"big-endian", change(func(eh, _, _ []byte) { eh[5] = 2 }), "another machine"},
		{"for ARM", change(func(eh, _, _ []byte) { eh[18] = 183 }), "machine 183"},
		{"an object file", change(func(eh, _, _ []byte) { eh[16] = 1 }), "type 1"},
		{"odd program headers", change(func(eh, _, _ []byte) { eh[54] = 32 }), "of 32 bytes"},
		{"65535 program headers", change(func(eh, _, _ []byte) { eh[56], eh[57] = 255, 255 }), "65535 program headers"},
		{"program headers at the end of numbers", change(func(eh, _, _ []byte) { le.PutUint64(eh[32:], ^uint64(0)-8) }), "program headers"},
		{"nothing to load", change(func(_, a, b []byte) { a[0], b[0] = 0, 0 }), "nothing to load"},
		{"entry outside", change(func(eh, _, _ []byte) { le.PutUint64(eh[24:], 0x5000000) }), "entry point 0x5000000"},
		{"more in the file than in memory", change(func(_, a, _ []byte) { le.PutUint64(a[40:], 8) }), "for 0x8 in memory"},
		{"a segment that wraps", change(func(_, _, b []byte) { le.PutUint64(b[24:], ^uint64(0)-100) }), "wrap around"},
		{"a segment of all memory", change(func(_, _, b []byte) { le.PutUint64(b[40:], ^uint64(0)-0x1002000) }), "outside the guest's memory"},
		{"a segment over the boot tables", change(func(_, _, b []byte) { le.PutUint64(b[24:], 0x7000) }), "below 0x100000"},
		{"a segment outside memory", change(func(_, _, b []byte) { le.PutUint64(b[24:], 0x10000000) }), "outside the guest's memory"},
		{"a segment across the end", change(func(_, _, b []byte) { le.PutUint64(b[24:], 64*mib-4096) }), "outside the guest's memory"},
		{"segments that overlap", change(func(_, _, b []byte) { le.PutUint64(b[24:], entry32+4) }), "segments 0 and 1 overlap"},
		{"content past the end of numbers", change(func(_, a, _ []byte) { le.PutUint64(a[8:], ^uint64(0)-5) }), "cannot be"},
		{"content past the end of the file", change(func(_, a, _ []byte) { le.PutUint64(a[8:], 1<<40) }), "unexpected EOF"},
		{"a PVH entry outside", vmlinuxOf(entry64, load(0x1000, entry32, make([]byte, 4096), 0),
			part{ptNote, 0x2000, 0, 0, pvhNote(0x40)}), "PVH entry point 0x40"},

		{"an old bzImage", changeWrap(func(b []byte) { b[hdrVersion], b[hdrVersion+1] = 7, 2 }), "boot protocol 2.07"},
		{"a 32-bit bzImage", changeWrap(func(b []byte) { b[hdrXLoadFlags] = 0 }), "32-bit kernel"},
		{"no payload", changeWrap(func(b []byte) { le.PutUint32(b[hdrPayloadLen:], 0) }), "without a payload"},
		{"a payload past the end", changeWrap(func(b []byte) { le.PutUint32(b[hdrPayloadLen:], 200) }), "cut short"},
		{"a payload far away", changeWrap(func(b []byte) { le.PutUint32(b[hdrPayload:], 1<<32-1) }), "cut short"},
		{"lzo", wrapOf([]byte("\x89LZO\x00\r\n\x1a\n and more")), "by lzo, which is not supported"},
		{"an unknown payload", wrapOf([]byte("MZ and so on and so on")), "unknown compression"},
		{"a payload of 4 GiB", wrapOf([]byte("\x1f\x8b and more\xff\xff\xff\xff")), "unpack to 4095 MiB"},
		{"a payload that is none", wrapOf([]byte("\x1f\x8b\x08 and more\xff\xff\x00\x00")), "unpack gzip"},
		{"xz that is none", wrapOf([]byte(xzMagic + "\x00\x01\x00\x00\x00\x00\x00\x10\x00\x00")), "unpack xz: the data is damaged"},
	} {
		i, err := Open(write(t, row.file))
		if err == nil {
			_, err = i.Load(newRAM(t, 64*mib, 0), Params{Map: Map(64*mib, 0)})
		}
		if err == nil {
			t.Errorf("%s: loads", row.name)
			continue
		}
		if oneLine(t, err); !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %q, want something with %q", row.name, err, row.want)
		}
	}
}

// TestHostilePayload is about what only a decoder's output can do wrong.
func TestHostilePayload(t *testing.T) {
	shared := vmlinuxOf(entry64, load(0x1000, entry32, make([]byte, 8192), 0), load(0x1800, entry32+0x10000, []byte("shared"), 0))
	long := bzImageOf(t, "gzip", testKernel(nil))
	i := mustOpen(t, long)
	le.PutUint32(long[i.wrap.payload+i.wrap.length-4:], 1<<20) // gzip's own size, which its reader checks
	for want, file := range map[string][]byte{
		"share bytes of the file":      bzImageOf(t, "gzip", shared),
		"something else than an ELF":   bzImageOf(t, "gzip", []byte(strings.Repeat("no kernel ", 1000))),
		"gzip: invalid checksum":       long,
		"another size than the 77777 ": wrapOf(le.AppendUint32(tool(t, packers["bzip2"].pack, testKernel(nil)), 77777)),
	} {
		_, err := mustOpen(t, file).Load(newRAM(t, 64*mib, 0), Params{Map: Map(64*mib, 0)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something with %q", err, want)
		} else {
			oneLine(t, err)
		}
	}
}

func TestNoFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	dir, err := os.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	closed := write(t, testKernel(nil))
	closed.Close()
	if _, err := Open(closed); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a closed file: %v", err)
	}
	for _, f := range []*os.File{r, dir} {
		if _, err := Open(f); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
}

// short is a file that has become shorter than it said.
type short struct{}

func (short) ReadAt(p []byte, _ int64) (int, error) { return len(p) / 2, io.EOF }

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, unix.EIO }

func TestRefusedParams(t *testing.T) {
	good := Map(64*mib, 0)
	for _, row := range []struct {
		name string
		p    Params
		want string
	}{
		{"long command line", Params{Map: good, Cmdline: strings.Repeat("x", 2048)}, "2048 bytes; this kernel takes 2047"},
		{"zero in the command line", Params{Map: good, Cmdline: "a\x00b"}, "zero byte"},
		{"no map", Params{}, "0 regions"},
		{"a long map", Params{Map: make([]Region, 129)}, "129 regions"},
		{"overlapping map", Params{Map: append(Map(64*mib, 0), Region{mib, mib, RAM})}, "overlaps another"},
		{"wrapping map", Params{Map: append(Map(64*mib, 0), Region{top, ^uint64(0) - 5, RAM})}, "wraps"},
		{"no low memory", Params{Map: []Region{{mib, 63 * mib, RAM}}}, "no RAM from 0"},
		{"little memory", Params{Map: Map(mib, 0)}, "which may be too small"},
		{"large initrd", Params{Map: good, Initrd: []Part{{short{}, 100 * mib, "big"}}}, "the initrd has 100 MiB, and the largest room for it in the guest's memory 44 MiB"},
		{"initrd of negative size", Params{Map: good, Initrd: []Part{{short{}, -1, "i"}}}, "initrd i: a size of -1"},
		{"initrds without end", Params{Map: good, Initrd: []Part{{short{}, 1 << 61, "i"}, {short{}, 1<<63 - 1, "j"}}}, "initrd j: a size"},
		{"short initrd", Params{Map: good, Initrd: []Part{{short{}, 100, "i"}}}, "read initrd i: unexpected EOF"},
		{"broken initrd", Params{Map: good, Initrd: []Part{{broken{}, 100, "i"}}}, "read initrd i: input/output error"},
	} {
		_, err := mustOpen(t, testKernel(nil)).Load(newRAM(t, 64*mib, 0), row.p)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want something with %q", row.name, err, row.want)
		} else {
			oneLine(t, err)
		}
	}
	noPVH := vmlinuxOf(entry64, load(0x1000, entry32, make([]byte, 4096), 0))
	_, err := mustOpen(t, noPVH).Load(newRAM(t, 64*mib, 0), Params{Map: good, Protocol: PVH})
	if err == nil || !strings.Contains(err.Error(), "CONFIG_PVH") {
		t.Errorf("PVH without a note: %v", err)
	}
}

// FuzzLoad gives any file to Open and Load. What loads has its entry point in
// the kernel, and kernel and initrd in memory and apart from each other.
func FuzzLoad(f *testing.F) {
	f.Add(testKernel([]byte("data")), uint8(0))
	f.Add(testKernel(nil), uint8(Linux64))
	for format := range packers {
		f.Add(bzImageOf(f, format, testKernel([]byte("data"))), uint8(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, protocol uint8) {
		file := write(t, b)
		defer file.Close()
		i, err := Open(file)
		if err != nil {
			oneLine(t, err)
			return
		}
		m := newRAM(t, 32*mib, 4*mib)
		p := someParams
		p.Map, p.Protocol = Map(32*mib, 4*mib), Protocol(protocol%3)
		e, err := i.Load(m, p)
		if err != nil {
			oneLine(t, err)
			return
		}
		m.at(t, e.Kernel.Start, 1)
		m.at(t, e.Kernel.End-1, 1)
		m.at(t, e.Initrd.Start, e.Initrd.Size())
		if e.Initrd.overlaps(e.Kernel) || !e.Kernel.holds(Span{e.RIP, e.RIP + 1}) {
			t.Errorf("entry %+v", e)
		}
	})
}

// FuzzXZ gives any stream to our own parser of .xz.
func FuzzXZ(f *testing.F) {
	for _, options := range []string{"--check=crc32 --x86 --lzma2", "--check=crc64 --block-size=1000"} {
		f.Add(tool(f, append([]string{"xz", "-c"}, strings.Fields(options)...), testKernel([]byte("data"))))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = mib
		n, err := io.Copy(io.Discard, io.LimitReader(newXZ(buffered(b), limit), limit))
		if err == nil && n < limit && len(b) < 12 {
			t.Error("a stream of nothing ends well")
		}
		if errors.Is(err, io.EOF) {
			t.Error("an early end looks like a good one")
		}
	})
}
