// Package cpuid asks the processor what it is, as it answers to this process: in
// a virtual machine that is what the hypervisor wants seen.
package cpuid

import "bulkhead/kvm"

// Read executes CPUID.
func Read(leaf, sub uint32) (eax, ebx, ecx, edx uint32)

// Feature is a bit of CPUID. One without a name is what every x86-64 processor has.
type Feature struct {
	Name      string
	Leaf, Sub uint32
	Reg       byte // 'a' to 'd'
	Bit       uint8
}

// Here tells whether this processor has f.
func (f Feature) Here() bool {
	if f.Name == "" {
		return true
	}
	if highest, _, _, _ := Read(f.Leaf&0xf0000000, 0); highest < f.Leaf {
		return false
	}
	eax, ebx, ecx, edx := Read(f.Leaf, f.Sub)
	return f.in(eax, ebx, ecx, edx)
}

// In tells whether a guest that is shown list sees f.
func (f Feature) In(list []kvm.CPUIDEntry) bool {
	if f.Name == "" {
		return true
	}
	for _, e := range list {
		if e.Function == f.Leaf && e.Index == f.Sub {
			return f.in(e.EAX, e.EBX, e.ECX, e.EDX)
		}
	}
	return false
}

func (f Feature) in(eax, ebx, ecx, edx uint32) bool {
	reg := map[byte]uint32{'a': eax, 'b': ebx, 'c': ecx, 'd': edx}[f.Reg]
	return reg>>f.Bit&1 == 1
}

// The features that somebody here asks for.
var (
	VMX        = Feature{"vmx", 1, 0, 'c', 5}
	SVM        = Feature{"svm", 0x80000001, 0, 'c', 2}
	Hypervisor = Feature{"hypervisor", 1, 0, 'c', 31}
	XSave      = Feature{"xsave", 1, 0, 'c', 26}
	AVX        = Feature{"avx", 1, 0, 'c', 28}
	FSGSBase   = Feature{"fsgsbase", 7, 0, 'b', 0}
	SMAP       = Feature{"smap", 7, 0, 'b', 20}
	POPCNT     = Feature{"popcnt", 1, 0, 'c', 23}
	BMI1       = Feature{"bmi1", 7, 0, 'b', 3}
	SSE42      = Feature{"sse4_2", 1, 0, 'c', 20}
	MOVBE      = Feature{"movbe", 1, 0, 'c', 22}
	CX16       = Feature{"cx16", 1, 0, 'c', 13}
	XSaveS     = Feature{"xsaves", 0xd, 1, 'a', 3}
	INVPCID    = Feature{"invpcid", 7, 0, 'b', 10}
	RDRAND     = Feature{"rdrand", 1, 0, 'c', 30}
	RDSEED     = Feature{"rdseed", 7, 0, 'b', 18}
	RDPID      = Feature{"rdpid", 7, 0, 'c', 22}
	RDTSCP     = Feature{"rdtscp", 0x80000001, 0, 'd', 27}
	CLFLUSHOPT = Feature{"clflushopt", 7, 0, 'b', 23}
)
