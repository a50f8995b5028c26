package loader

import (
	"bytes"
	"debug/elf"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// Every row of the table is one instruction, and the one that its text names.
func TestVDSOCode(t *testing.T) {
	for i, row := range vdsoCode {
		if row.text == "padding" {
			continue
		}
		in, err := x86asm.Decode([]byte(row.bytes), 64)
		if err != nil {
			t.Errorf("row %d, %s: %v", i, row.text, err)
			continue
		}
		if in.Len != len(row.bytes) {
			t.Errorf("row %d, %s: %d bytes, want %d", i, row.text, len(row.bytes), in.Len)
		}
		want, _, _ := strings.Cut(row.text, " ")
		got := strings.ToLower(in.Op.String())
		same := map[string]string{"movsxd": "movsxd", "jae": "jae", "ja": "ja"}
		if s, ok := same[want]; ok {
			want = s
		}
		if got != want {
			t.Errorf("row %d: %s is %s", i, row.text, in)
		}
	}
}

// The image is what libcs expect: symbols of version LINUX_2.6 that lie in the
// code.
func TestVDSOImage(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(vdsoImage()))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_DYN || len(f.Progs) != 2 {
		t.Fatalf("type %v, %d program headers", f.Type, len(f.Progs))
	}
	want := map[string]bool{}
	for _, s := range vdsoSymbols {
		want[s.name] = true
	}
	// debug/elf finds dynamic symbols by sections, of which there are none: the
	// table is looked at by the dynamic segment.
	img := vdsoImage()
	for name := range want {
		if !bytes.Contains(img, []byte(name+"\x00")) {
			t.Errorf("%s is missing", name)
		}
	}
	if !bytes.Contains(img, []byte("LINUX_2.6\x00")) {
		t.Error("the version is missing")
	}
}
