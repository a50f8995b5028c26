package machine

import (
	"testing"

	"bulkhead/kvm"
)

// leaf is one of a list's entries.
func leaf(list []kvm.CPUIDEntry, function, index uint32) *kvm.CPUIDEntry {
	for i := range list {
		if list[i].Function == function && list[i].Index == index {
			return &list[i]
		}
	}
	return nil
}

// host is what a processor of either vendor might offer.
func host() []kvm.CPUIDEntry {
	const sub = kvm.CPUIDSubleaf
	return []kvm.CPUIDEntry{
		{Function: 0, EAX: 0x1f}, {Function: 1, EBX: 0x7f40_0800, ECX: 1<<5 | 1<<28, EDX: 1 << 28},
		{Function: 4, Index: 0, Flags: sub, EAX: 0xfc00_4121}, {Function: 4, Index: 1, Flags: sub, EAX: 0xfc1f_c163}, {Function: 4, Index: 2, Flags: sub},
		{Function: 7, Flags: sub, EBX: 1 << 5}, {Function: 0xa, EAX: 5}, {Function: 0xb, Flags: sub, EDX: 99},
		{Function: 0x8000_0001, ECX: 1<<2 | 1<<23}, {Function: 0x8000_0008, ECX: 0x703f}, {Function: 0x8000_001e, EAX: 99, EBX: 0x103, ECX: 5},
	}
}

func TestTopology(t *testing.T) {
	for _, c := range []struct {
		cpus, id int
		shift    uint32
	}{{1, 0, 0}, {2, 1, 1}, {3, 2, 2}, {4, 0, 2}, {32, 31, 5}} {
		list := profile{tidy(host()), c.cpus}.of(c.id)
		n, id := uint32(c.cpus), uint32(c.id)
		check := func(what string, got, want uint32) {
			t.Helper()
			if got != want {
				t.Errorf("CPU %d of %d: %s is %#x, want %#x", c.id, c.cpus, what, got, want)
			}
		}
		check("APIC id in leaf 1", leaf(list, 1, 0).EBX>>24, id)
		check("count in leaf 1", leaf(list, 1, 0).EBX>>16&0xff, 1<<c.shift)
		check("cache line in leaf 1", leaf(list, 1, 0).EBX>>8&0xff, 8)
		check("HTT", leaf(list, 1, 0).EDX>>28&1, min(n-1, 1))
		check("those that share the first cache", leaf(list, 4, 0).EAX>>14&0xfff, 0)
		check("those that share the last", leaf(list, 4, 1).EAX>>14&0xfff, n-1)
		check("cores in leaf 4", leaf(list, 4, 0).EAX>>26, 1<<c.shift-1)
		check("the end of leaf 4", leaf(list, 4, 2).EAX, 0)
		for _, f := range []uint32{0xb, 0x1f} {
			check("threads of a core", leaf(list, f, 0).EBX, 1)
			check("bits of a core", leaf(list, f, 1).EAX, c.shift)
			check("cores", leaf(list, f, 1).EBX, n)
			check("x2APIC id", leaf(list, f, 0).EDX, id)
		}
		check("AMD's count", leaf(list, 0x8000_0008, 0).ECX, c.shift<<12|n-1)
		check("AMD's APIC id", leaf(list, 0x8000_001e, 0).EAX, id)
		check("AMD's node", leaf(list, 0x8000_001e, 0).ECX, 0)
	}
}

func TestTidy(t *testing.T) {
	list := tidy(host())
	if leaf(list, 0xa, 0) != nil {
		t.Error("the guest is shown performance counters")
	}
	if leaf(list, 1, 0).ECX&vmx != 0 || leaf(list, 0x8000_0001, 0).ECX&(svm|perfctr) != 0 {
		t.Error("the guest is shown virtualization, or AMD's counters")
	}
}

func TestHide(t *testing.T) {
	p := profile{tidy(host()), 1}
	for _, name := range []string{"avx", "avx2"} {
		if err := p.hide(name); err != nil {
			t.Fatal(err)
		}
	}
	list := p.of(0)
	if leaf(list, 1, 0).ECX&(1<<28) != 0 || leaf(list, 7, 0).EBX&(1<<5) != 0 {
		t.Error("a hidden feature shows")
	}
	if p.hide("sse9") == nil {
		t.Error("a feature that is none: no error")
	}
	seen := map[string]bool{}
	for _, f := range features {
		if seen[f.name] || f.bit > 31 {
			t.Errorf("%s stands twice, or has bit %d", f.name, f.bit)
		}
		seen[f.name] = true
	}
}
