package machine

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"bulkhead/kvm"
)

// profile is what CPUID shows in this machine, but for what differs from one vCPU
// to the next: leaves as in Intel's SDM (CPUID) and AMD's APM vol. 3, appendix E.
type profile struct {
	list []kvm.CPUIDEntry
	cpus int
}

// cpuid is what the host offers, less what mask names.
func cpuid(sys *kvm.System, cpus int, mask []string) (profile, error) {
	list, err := sys.CPUID()
	if err != nil {
		return profile{}, err
	}
	deadline, err := sys.Check(kvm.CapTSCDeadlineTimer)
	if err != nil {
		return profile{}, err
	}
	p := profile{list: tidy(list), cpus: cpus}
	p.set(1, 0, ecx, hypervisor)
	if deadline > 0 {
		p.set(1, 0, ecx, deadlineTimer)
	}
	for _, name := range mask {
		if err := p.hide(name); err != nil {
			return profile{}, err
		}
	}
	return p, nil
}

// register is one of CPUID's four.
type register int

const (
	eax register = iota
	ebx
	ecx
	edx
)

func of(e *kvm.CPUIDEntry, r register) *uint32 {
	return [...]*uint32{&e.EAX, &e.EBX, &e.ECX, &e.EDX}[r]
}

const (
	hypervisor    = 1 << 31 // of leaf 1 ECX: the range at 0x40000000 says which
	deadlineTimer = 1 << 24 // of leaf 1 ECX; KVM leaves it to us (api.rst, KVM_GET_SUPPORTED_CPUID)
	multiThread   = 1 << 28 // of leaf 1 EDX: leaf 1 EBX counts CPUs
)

// quiet are leaves that show nothing here: performance counters, whose drivers
// probe dozens of MSRs at boot, and thermal and power management, of which a
// guest has none.
var quiet = []uint32{0x6, 0xa, 0x8000_0022}

// perfctr are AMD's counters in leaf 0x80000001 ECX.
const perfctr = 1<<23 | 1<<24 | 1<<28

// A guest has no guests of its own: a snapshot would not have them.
const (
	vmx = 1 << 5 // leaf 1 ECX
	svm = 1 << 2 // leaf 0x80000001 ECX
)

// tidy drops what KVM says of this CPU but not of a guest's, and topology leaves
// that of writes itself.
func tidy(list []kvm.CPUIDEntry) []kvm.CPUIDEntry {
	list = slices.DeleteFunc(slices.Clone(list), func(e kvm.CPUIDEntry) bool {
		return slices.Contains(quiet, e.Function) || slices.Contains(topologyLeaves, e.Function)
	})
	for i := range list {
		switch list[i].Function {
		case 1:
			list[i].ECX &^= vmx
		case 0x8000_0001:
			list[i].ECX &^= perfctr | svm
		}
	}
	return list
}

// topologyLeaves list levels of a package.
var topologyLeaves = []uint32{0xb, 0x1f}

func (p *profile) set(leaf, sub uint32, r register, bit uint32) {
	for i := range p.list {
		if e := &p.list[i]; e.Function == leaf && e.Index == sub {
			*of(e, r) |= bit
		}
	}
}

// hide takes a feature away by its name.
func (p *profile) hide(name string) error {
	for _, f := range features {
		if f.name != name {
			continue
		}
		for i := range p.list {
			if e := &p.list[i]; e.Function == f.leaf && e.Index == f.sub {
				*of(e, f.in) &^= 1 << f.bit
			}
		}
		return nil
	}
	return fmt.Errorf("machine: no CPU feature %q; those that can be taken away: %s", name, strings.Join(FeatureNames(), " "))
}

// of is what vCPU id shows. All vCPUs are cores of one package, one thread each.
func (p profile) of(id int) []kvm.CPUIDEntry {
	n, apic := uint32(p.cpus), uint32(id)
	shift := uint32(bits.Len32(n - 1)) // bits of an APIC id that tell cores apart
	list := slices.Clone(p.list)
	highest := uint32(0)
	for i := range list {
		e := &list[i]
		switch e.Function {
		case 0:
			highest = e.EAX
		case 1:
			e.EBX = e.EBX&0xffff | 1<<shift<<16 | apic<<24
			e.EDX &^= multiThread
			if n > 1 {
				e.EDX |= multiThread
			}
		case 4, 0x8000_001d: // caches: the last level is everyone's, the others their core's
			e.EAX &^= 0xfff << 14
			if e.EAX>>5&7 == 3 {
				e.EAX |= (n - 1) << 14
			}
			if e.Function == 4 && e.EAX&0x1f != 0 {
				e.EAX = e.EAX&0x03ff_ffff | (1<<shift-1)<<26
			}
		case 0x8000_0008:
			e.ECX = e.ECX&^0xf0ff | shift<<12 | (n - 1)
		case 0x8000_001e:
			e.EAX, e.EBX, e.ECX = apic, apic, 0
		}
	}
	for _, leaf := range topologyLeaves {
		if leaf <= highest {
			list = append(list,
				kvm.CPUIDEntry{Function: leaf, Index: 0, Flags: kvm.CPUIDSubleaf, EAX: 0, EBX: 1, ECX: 1 << 8, EDX: apic},
				kvm.CPUIDEntry{Function: leaf, Index: 1, Flags: kvm.CPUIDSubleaf, EAX: shift, EBX: n, ECX: 2<<8 | 1, EDX: apic},
				kvm.CPUIDEntry{Function: leaf, Index: 2, Flags: kvm.CPUIDSubleaf, ECX: 2, EDX: apic})
		}
	}
	return list
}

// features are those that can be taken away, as /proc/cpuinfo calls them
// (arch/x86/include/asm/cpufeatures.h).
var features = []struct {
	name      string
	leaf, sub uint32
	in        register
	bit       uint
}{
	{"pclmulqdq", 1, 0, ecx, 1}, {"monitor", 1, 0, ecx, 3},
	{"ssse3", 1, 0, ecx, 9}, {"fma", 1, 0, ecx, 12}, {"pcid", 1, 0, ecx, 17},
	{"sse4_1", 1, 0, ecx, 19}, {"sse4_2", 1, 0, ecx, 20}, {"x2apic", 1, 0, ecx, 21},
	{"movbe", 1, 0, ecx, 22}, {"popcnt", 1, 0, ecx, 23}, {"tsc_deadline_timer", 1, 0, ecx, 24},
	{"aes", 1, 0, ecx, 25}, {"xsave", 1, 0, ecx, 26}, {"avx", 1, 0, ecx, 28},
	{"f16c", 1, 0, ecx, 29}, {"rdrand", 1, 0, ecx, 30},
	{"fsgsbase", 7, 0, ebx, 0}, {"tsc_adjust", 7, 0, ebx, 1}, {"bmi1", 7, 0, ebx, 3},
	{"hle", 7, 0, ebx, 4}, {"avx2", 7, 0, ebx, 5}, {"smep", 7, 0, ebx, 7},
	{"bmi2", 7, 0, ebx, 8}, {"erms", 7, 0, ebx, 9}, {"invpcid", 7, 0, ebx, 10},
	{"rtm", 7, 0, ebx, 11}, {"avx512f", 7, 0, ebx, 16}, {"avx512dq", 7, 0, ebx, 17},
	{"rdseed", 7, 0, ebx, 18}, {"adx", 7, 0, ebx, 19}, {"smap", 7, 0, ebx, 20},
	{"avx512ifma", 7, 0, ebx, 21}, {"clflushopt", 7, 0, ebx, 23}, {"clwb", 7, 0, ebx, 24},
	{"avx512cd", 7, 0, ebx, 28}, {"sha_ni", 7, 0, ebx, 29}, {"avx512bw", 7, 0, ebx, 30},
	{"avx512vl", 7, 0, ebx, 31},
	{"avx512vbmi", 7, 0, ecx, 1}, {"umip", 7, 0, ecx, 2}, {"pku", 7, 0, ecx, 3},
	{"avx512_vbmi2", 7, 0, ecx, 6}, {"shstk", 7, 0, ecx, 7}, {"gfni", 7, 0, ecx, 8},
	{"vaes", 7, 0, ecx, 9}, {"vpclmulqdq", 7, 0, ecx, 10}, {"avx512_vnni", 7, 0, ecx, 11},
	{"avx512_bitalg", 7, 0, ecx, 12}, {"avx512_vpopcntdq", 7, 0, ecx, 14}, {"la57", 7, 0, ecx, 16},
	{"rdpid", 7, 0, ecx, 22}, {"fsrm", 7, 0, edx, 4}, {"amx_bf16", 7, 0, edx, 22},
	{"avx512_fp16", 7, 0, edx, 23}, {"amx_tile", 7, 0, edx, 24}, {"amx_int8", 7, 0, edx, 25},
	{"xsaveopt", 0xd, 1, eax, 0}, {"xsavec", 0xd, 1, eax, 1}, {"xsaves", 0xd, 1, eax, 3},
	{"nx", 0x8000_0001, 0, edx, 20},
	{"pdpe1gb", 0x8000_0001, 0, edx, 26}, {"rdtscp", 0x8000_0001, 0, edx, 27},
}

// FeatureNames are the names that Config.Mask takes.
func FeatureNames() []string {
	var names []string
	for _, f := range features {
		names = append(names, f.name)
	}
	return names
}
