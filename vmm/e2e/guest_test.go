package e2e

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// microGuest is a kernel of two bytes, for hosts that run no Linux: it jumps to itself.
func microGuest(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "micro")
	writeKernel(t, path, []byte{0xeb, 0xfe})
	return path
}

// poweringOff is a kernel of 10 MB that ends its machine at once.
func poweringOff(t testing.TB, path string) {
	t.Helper()
	code := make([]byte, 10<<20)
	copy(code, []byte{0x66, 0xba, 0xf0, 0x05, 0x31, 0xc0, 0xee}) // mov dx,0x5f0; xor eax,eax; out dx,al
	writeKernel(t, path, code)
}

// writeKernel makes an ELF file of code, entered at 1 MiB.
func writeKernel(t testing.TB, path string, code []byte) {
	t.Helper()
	b := elfFile(t, code, segment(0, uint64(len(code))))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// entry is where a kernel of ours begins, and its first segment lies.
const entry = 1 << 20

// segment is size bytes, at after entry in memory and in the file.
func segment(at, size uint64) elf.Prog64 {
	return elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: 5, Off: at, Vaddr: entry + at, Paddr: entry + at, Filesz: size, Memsz: size, Align: 1}
}

// elfFile is a kernel with these segments, whose offsets count from where code begins.
func elfFile(t testing.TB, code []byte, segments ...elf.Prog64) []byte {
	t.Helper()
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: entry, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: uint16(len(segments))}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	put(h)
	for _, s := range segments {
		s.Off += uint64(64 + 56*len(segments))
		put(s)
	}
	b.Write(code)
	return b.Bytes()
}

func sparse(t *testing.T, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "sparse")
	if err := os.Truncate(create(t, path), size); err != nil {
		t.Fatal(err)
	}
	return path
}

// waitFor asks until the API is there.
func waitFor(v *vm, path string) (state struct{ State string }, err error) {
	for {
		if err = v.ask("GET", path, "", &state); err == nil || v.t.Context().Err() != nil {
			return state, err
		}
		v.out.mu.Lock()
		ended := v.out.end
		v.out.mu.Unlock()
		if ended {
			return state, err
		}
	}
}

// checkClock compares the last time that the guest told with ours. The guest told it
// not long ago; a clock that stood still while the guest was away would be off by
// the time that it was.
func checkClock(t *testing.T, out string) {
	t.Helper()
	out = out[:strings.LastIndex(out, "\n")+1] // the last line may still be under way
	i := strings.LastIndex(out, " at ")
	line, _, ok := strings.Cut(out[max(i, 0):], "\r\n")
	if i < 0 || !ok {
		t.Fatal("the guest tells no time")
	}
	for _, layout := range []string{time.UnixDate, time.RFC3339, time.RFC1123} {
		if told, err := time.Parse(layout, strings.TrimPrefix(line, " at ")); err == nil {
			if off := time.Since(told); off < -2*time.Second || off > 5*time.Second {
				t.Errorf("the guest's clock is off by %v: %s", off, line)
			}
			return
		}
	}
	t.Fatalf("no time in %q", line)
}
