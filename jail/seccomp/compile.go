package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h), little endian.
const (
	offNR   = 0
	offArch = 4
	offArgs = 16
)

// The BPF instructions in use (include/uapi/linux/bpf_common.h).
const (
	opLoad   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opEqual  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opLess   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K // with its exits exchanged
	opJump   = unix.BPF_JMP | unix.BPF_JA
	opReturn = unix.BPF_RET | unix.BPF_K
)

type program = []unix.SockFilter

// compile makes a binary search over the numbers, with the conditions of a
// number at its leaf. An unconditional number is answered from a bitmap by
// kernels from 5.11 on (kernel/seccomp.c, seccomp_cache_prepare).
func compile(rows []Row, off Action) (program, error) {
	byNR := map[uintptr][]Row{}
	for _, r := range rows {
		if r.Name == "" || r.Why == "" {
			return nil, fmt.Errorf("seccomp: row of call %d (%q) lacks a name or a reason", r.NR, r.Name)
		}
		for _, c := range r.When {
			if c.Arg < 0 || c.Arg > 5 || (c.Mask != 0 && c.Value&^c.Mask != 0) {
				return nil, fmt.Errorf("seccomp: row %s: condition %+v can not hold", r.Name, c)
			}
		}
		byNR[r.NR] = append(byNR[r.NR], r)
	}
	var leaves []leaf
	for nr, rs := range byNR {
		leaves = append(leaves, leaf{uint32(nr), alternatives(rs, off)})
	}
	slices.SortFunc(leaves, func(a, b leaf) int { return cmp.Compare(a.nr, b.nr) })
	p := program{
		{Code: opLoad, K: offArch},
		{Code: opEqual, Jt: 1, K: unix.AUDIT_ARCH_X86_64},
		{Code: opReturn, K: unix.SECCOMP_RET_KILL_PROCESS}, // int 0x80 reads the numbers differently
		{Code: opLoad, K: offNR},
	}
	p = append(p, search(leaves, off)...) // x32's numbers have bit 30 and are on no list
	if len(p) > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("seccomp: %d instructions, the kernel takes %d", len(p), unix.BPF_MAXINSNS)
	}
	return p, nil
}

// leaf is the code that answers one number.
type leaf struct {
	nr   uint32
	code program
}

// search finds the number that is loaded among leaves. Every path returns, so
// halves can stand behind each other.
func search(leaves []leaf, off Action) program {
	switch len(leaves) {
	case 0:
		return program{{Code: opReturn, K: uint32(off)}}
	case 1:
		p := program{{Code: opEqual, Jt: 1, K: leaves[0].nr}, {Code: opReturn, K: uint32(off)}}
		return append(p, leaves[0].code...)
	}
	half := len(leaves) / 2
	low, high := search(leaves[:half], off), search(leaves[half:], off)
	p := program{{Code: opLess, Jf: 1, K: leaves[half].nr}, {Code: opJump, K: uint32(len(low))}}
	return append(append(p, low...), high...)
}

// alternatives allows if one of rs holds.
func alternatives(rs []Row, off Action) program {
	var p program
	for _, r := range rs {
		p = append(p, conditions(r.When)...)
	}
	return append(p, unix.SockFilter{Code: opReturn, K: uint32(off)})
}

// conditions allows if all of cs hold and falls out at its end otherwise.
func conditions(cs []Cond) program {
	p := program{{Code: opReturn, K: unix.SECCOMP_RET_ALLOW}}
	for i := len(cs) - 1; i >= 0; i-- {
		p = append(compare(cs[i], len(p)), p...)
	}
	return p
}

// compare skips the following n instructions unless c holds.
func compare(c Cond, n int) program {
	mask := c.Mask
	if mask == 0 {
		mask = ^uint64(0)
	}
	low := word(c.Arg, 0, uint32(mask), uint32(c.Value), n)
	high := word(c.Arg, 4, uint32(mask>>32), uint32(c.Value>>32), n+len(low))
	return append(high, low...)
}

// word compares half an argument, and skips n instructions behind itself if it differs.
func word(arg int, at, mask, value uint32, n int) program {
	if mask == 0 {
		return nil
	}
	p := program{{Code: opLoad, K: offArgs + 8*uint32(arg) + at}}
	if mask != ^uint32(0) {
		p = append(p, unix.SockFilter{Code: opAnd, K: mask})
	}
	return append(p, unix.SockFilter{Code: opEqual, Jt: 1, K: value}, unix.SockFilter{Code: opJump, K: uint32(n)})
}
