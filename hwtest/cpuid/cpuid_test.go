package cpuid

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"bulkhead/kvm"
)

// TestRead compares with what the kernel read.
func TestRead(t *testing.T) {
	_, b, c, d := Read(0, 0)
	var name []byte
	for _, part := range []uint32{b, d, c} {
		name = binary.LittleEndian.AppendUint32(name, part)
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip("needs /proc/cpuinfo (mount -t proc proc /proc):", err)
	}
	if !strings.Contains(string(info), string(name)) {
		t.Errorf("vendor %q is not in /proc/cpuinfo", name)
	}
	line := string(info[strings.Index(string(info), "flags"):])
	flags := strings.Fields(line[:strings.IndexByte(line, '\n')])
	for _, f := range []Feature{VMX, SVM, Hypervisor, XSave, AVX, POPCNT, SSE42, CX16, RDRAND, RDTSCP} {
		seen := false
		for _, flag := range flags {
			seen = seen || flag == f.Name
		}
		if seen && !f.Here() {
			t.Errorf("%s is in /proc/cpuinfo and not here", f.Name)
		}
	}
	if none := (Feature{Name: "none", Leaf: 0x4f00_0000}); none.Here() {
		t.Error("a leaf past the highest has a feature")
	}
}

func TestIn(t *testing.T) {
	list := []kvm.CPUIDEntry{{Function: 7, Index: 1, EBX: 1}, {Function: 7, EBX: 1 << 20}}
	if !SMAP.In(list) || FSGSBase.In(list) || POPCNT.In(list) || !(Feature{}).In(nil) {
		t.Errorf("smap %v, fsgsbase %v, popcnt %v", SMAP.In(list), FSGSBase.In(list), POPCNT.In(list))
	}
}
