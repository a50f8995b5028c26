package kvm

import (
	"encoding/binary"

	"bulkhead/kvm"
)

// The XSAVE area in the standard format (SDM vol. 1, "Standard Format of the
// XSAVE Area"): 512 bytes of FXSAVE, then the header.
const (
	xsaveControl = 0   // FCW
	xsaveMXCSR   = 24  // and its mask
	xsaveHeader  = 512 // XSTATE_BV, XCOMP_BV, reserved
	xsaveLeast   = 576
)

// Features that we let applications have: x87, SSE, AVX, AVX-512. AMX needs
// permission by arch_prctl and 8 KiB a thread; protection keys would need PKRU
// to follow the address space.
const xcr0Wanted = 0xe7

// xstate finds the features and the size of the area in the CPUID that the
// guest sees.
func xstate(list []kvm.CPUIDEntry) (features uint64, size int) {
	size = xsaveLeast
	for _, e := range list {
		if e.Function != 0xd {
			continue
		}
		switch {
		case e.Index == 0:
			features = (uint64(e.EDX)<<32 | uint64(e.EAX)) & xcr0Wanted
		case e.Index < 63 && features>>e.Index&1 != 0 && e.ECX&1 == 0:
			size = max(size, int(e.EBX+e.EAX))
		}
	}
	return features | 1, size
}

// loadFPU sets the vector state. It comes from the application's stack after
// a signal, so what KVM would refuse is taken out, as XRSTOR's #GP would in
// Linux end the thread by a signal for less reason.
func (v *vcpu) loadFPU(area []byte) error {
	var x kvm.XSave
	if len(area) < xsaveLeast {
		binary.LittleEndian.PutUint16(x[xsaveControl:], 0x37f)
		binary.LittleEndian.PutUint32(x[xsaveMXCSR:], 0x1f80)
		binary.LittleEndian.PutUint64(x[xsaveHeader:], 3)
		return v.SetXSave(&x)
	}
	copy(x[:min(v.p.fpuSize, len(x))], area)
	mx := binary.LittleEndian.Uint32(x[xsaveMXCSR:])
	binary.LittleEndian.PutUint32(x[xsaveMXCSR:], mx&0xffff)
	have := binary.LittleEndian.Uint64(x[xsaveHeader:])
	clear(x[xsaveHeader:xsaveLeast])
	binary.LittleEndian.PutUint64(x[xsaveHeader:], have&v.p.xcr0)
	return v.SetXSave(&x)
}

// freshFPU is the state after exec.
func (v *vcpu) freshFPU() []byte {
	b := make([]byte, v.p.fpuSize)
	binary.LittleEndian.PutUint16(b[xsaveControl:], 0x37f)
	binary.LittleEndian.PutUint32(b[xsaveMXCSR:], 0x1f80)
	binary.LittleEndian.PutUint64(b[xsaveHeader:], 3)
	return b
}

// saveFPU reads it.
func (v *vcpu) saveFPU(area []byte) ([]byte, error) {
	var x kvm.XSave
	if err := v.XSave(&x); err != nil {
		return area, err
	}
	n := min(v.p.fpuSize, len(x))
	return append(area[:0], x[:n]...), nil
}
