package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// assembled is what objdump must read in each row: its name, unless that is no
// mnemonic, or another spelling of the assembler's.
var assembled = map[string][]string{
	"mov cr0": {"mov rax,cr0", "mov cr0,rax"}, "mov cr3": {"mov rax,cr3", "mov cr3,rax"}, "mov cr4": {"mov rax,cr4", "mov cr4,rax"},
	"mov dr7": {"mov dr7,rax"}, "ltr": {"ltr ax"}, "lidt": {"lidt [rsi+0x10]"}, "lretq": {"retf"}, "int n": {"int 0x1e"},
	"div by zero": {"div ecx"}, "cli, sti": {"cli", "sti"}, "pushf, popf": {"pushf", "popf"}, "in, out": {"in al,0x43"},
	"mov gs": {"mov gs,eax"}, "indirect call": {"call rax", "ret"}, "rep stosq": {"rep stos QWORD"}, "xsaves, xrstors": {"xsaves", "xrstors"},
	"vmovdqu ymm": {"vmovdqu ymm0,"}, "wrmsr": {"mov ecx,0xc0000102", "wrmsr"}, "rdmsr": {"mov ecx,0xc0000080", "rdmsr"},
}

// TestAssembled holds the bytes of the table to their names.
func TestAssembled(t *testing.T) {
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("needs objdump: apt-get install binutils")
	}
	for _, i := range append(instructions, hypercalls...) {
		path := filepath.Join(t.TempDir(), "code")
		if err := os.WriteFile(path, i.code, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(objdump, "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(string(out)), " ")
		want, other := assembled[i.name]
		if !other {
			want = []string{i.name}
		}
		for _, w := range want {
			if !strings.Contains(text, " "+w) {
				t.Errorf("%s: no %q in\n%s", i.name, w, out)
			}
		}
		if strings.Contains(text, "(bad)") {
			t.Errorf("%s: bytes that are no instruction:\n%s", i.name, out)
		}
	}
}
