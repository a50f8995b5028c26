// Package profile makes a program of classic BPF of an OCI seccomp profile, as runc
// makes it with libseccomp: a rule without arguments beats those with, of these the
// first that holds counts, and calls that are younger than all that the profile names
// are ENOSYS (runc, libcontainer/seccomp/patchbpf). The Sentry runs it, or the kernel
// of a container's machine.
package profile

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Program is a filter, an array of struct sock_filter, and how seccomp(2) is to take it.
type Program struct {
	Code  []byte
	Flags uint32 // SECCOMP_FILTER_FLAG_
}

// answers are the actions' values; errno is added to those that have one.
var answers = map[specs.LinuxSeccompAction]struct {
	value uint32
	errno bool
}{
	specs.ActKill:        {unix.SECCOMP_RET_KILL_THREAD, false},
	specs.ActKillThread:  {unix.SECCOMP_RET_KILL_THREAD, false},
	specs.ActKillProcess: {unix.SECCOMP_RET_KILL_PROCESS, false},
	specs.ActTrap:        {unix.SECCOMP_RET_TRAP, false},
	specs.ActErrno:       {unix.SECCOMP_RET_ERRNO, true},
	specs.ActTrace:       {unix.SECCOMP_RET_TRACE, true},
	specs.ActAllow:       {unix.SECCOMP_RET_ALLOW, false},
	specs.ActLog:         {unix.SECCOMP_RET_LOG, false},
}

func answerOf(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	r, ok := answers[a]
	switch {
	case !ok:
		return 0, fmt.Errorf("linux.seccomp: action %q cannot be honoured", a)
	case !r.errno:
		return r.value, nil
	case errno == nil:
		return r.value | uint32(unix.EPERM), nil
	}
	return r.value | uint32(*errno)&0xffff, nil
}

// rule is what a profile says of one call.
type rule struct {
	args   []specs.LinuxSeccompArg // all must hold
	answer uint32
}

// flags are those that mean something to one thread.
var flags = map[specs.LinuxSeccompFlag]uint32{
	"SECCOMP_FILTER_FLAG_TSYNC":            0, // there is one thread
	specs.LinuxSeccompFlagLog:              unix.SECCOMP_FILTER_FLAG_LOG,
	specs.LinuxSeccompFlagSpecAllow:        unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	specs.LinuxSeccompFlagWaitKillableRecv: 0, // of a listener, which there is none
}

// x32 is __X32_SYSCALL_BIT: the same architecture, other calls.
const x32 = 1 << 30

// Compile makes the program of a profile. number gives the calls of x86-64, for which
// alone it is: what a program calls in another way is ENOSYS where the profile has
// that architecture, and else ends it, as with libseccomp.
func Compile(p *specs.LinuxSeccomp, number func(name string) (int, bool)) (*Program, error) {
	other, err := answerOf(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	rules, youngest, err := rulesOf(p, other, number)
	if err != nil {
		return nil, err
	}
	prog := &Program{}
	for _, f := range p.Flags {
		flag, ok := flags[f]
		if !ok {
			return nil, fmt.Errorf("linux.seccomp: flag %q cannot be honoured", f)
		}
		prog.Flags |= flag
	}
	const none = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	var a assembler
	a.load(4)
	a.op(jeq, unix.AUDIT_ARCH_X86_64, 1, 0)
	a.op(ret, foreign(p, specs.ArchX86, none), 0, 0)
	a.load(0)
	a.op(jge, x32, 0, 1)
	a.op(ret, foreign(p, specs.ArchX32, none), 0, 0)
	for nr := range youngest + 1 {
		a.call(uint32(nr), rules[nr])
	}
	if other != unix.SECCOMP_RET_ALLOW {
		a.op(jgt, uint32(youngest), 0, 1)
		a.op(ret, none, 0, 0)
	}
	a.op(ret, other, 0, 0)
	if len(a.code) > unix.BPF_MAXINSNS*instruction {
		return nil, fmt.Errorf("linux.seccomp: %d rules are more than a filter holds", len(rules))
	}
	prog.Code = a.code
	return prog, nil
}

// foreign answers calls of another architecture than ours: the profile's own numbers
// for it would be of a table that no kernel here has.
func foreign(p *specs.LinuxSeccomp, arch specs.Arch, none uint32) uint32 {
	if slices.Contains(p.Architectures, arch) {
		return none
	}
	return unix.SECCOMP_RET_KILL_THREAD // SCMP_FLTATR_ACT_BADARCH
}

// rulesOf sorts the rules by call; youngest is the largest number that has a name.
func rulesOf(p *specs.LinuxSeccomp, other uint32, number func(string) (int, bool)) (rules map[int][]rule, youngest int, err error) {
	rules = map[int][]rule{}
	for _, s := range p.Syscalls {
		answer, err := answerOf(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, 0, err
		}
		for _, a := range s.Args {
			if a.Index > 5 || !slices.Contains(operators, a.Op) {
				return nil, 0, fmt.Errorf("linux.seccomp: rule of %v: argument %d, operator %q", s.Names, a.Index, a.Op)
			}
		}
		for _, name := range s.Names {
			nr, ok := number(name)
			if !ok {
				continue // of another architecture
			}
			youngest = max(youngest, nr)
			if answer != other {
				rules[nr] = append(rules[nr], alternatives(s.Args, answer)...)
			}
		}
	}
	for nr, rs := range rules {
		for _, r := range rs {
			if len(r.args) == 0 {
				rules[nr] = []rule{r}
				break
			}
		}
	}
	return rules, youngest, nil
}

var operators = []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual,
	specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual}

// alternatives are one rule, or one for each condition if they speak of one argument
// more than once, which could not hold together (runc, matchCall).
func alternatives(args []specs.LinuxSeccompArg, answer uint32) []rule {
	seen := map[uint]bool{}
	twice := false
	for _, a := range args {
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		return []rule{{args, answer}}
	}
	var rs []rule
	for i := range args {
		rs = append(rs, rule{args[i : i+1], answer})
	}
	return rs
}

// assembler writes struct sock_filter.
type assembler struct{ code []byte }

// instruction is the size of struct sock_filter.
const instruction = 8 // bytes

// Codes of instructions (include/uapi/linux/bpf_common.h).
const (
	ldAbs = 0x20
	andK  = 0x54
	jmp   = 0x05
	jeq   = 0x15
	jgt   = 0x25
	jge   = 0x35
	ret   = 0x06
)

func (a *assembler) op(code uint16, k uint32, jt, jf uint8) {
	a.code = binary.LittleEndian.AppendUint16(a.code, code)
	a.code = append(a.code, jt, jf)
	a.code = binary.LittleEndian.AppendUint32(a.code, k)
}

func (a *assembler) load(off uint32) { a.op(ldAbs, off, 0, 0) }

// call tests for nr, which is loaded, and answers by the rules; it goes on behind, with
// the number loaded, where none holds.
func (a *assembler) call(nr uint32, rules []rule) {
	if len(rules) == 0 {
		return
	}
	var body assembler
	for _, r := range rules {
		var all assembler
		all.op(ret, r.answer, 0, 0)
		for i := len(r.args) - 1; i >= 0; i-- {
			all = condition(&r.args[i], all)
		}
		body.code = append(body.code, all.code...)
	}
	if len(rules[0].args) > 0 {
		body.load(0)
	}
	a.op(jeq, nr, 1, 0)
	a.op(jmp, uint32(len(body.code)/instruction), 0, 0)
	a.code = append(a.code, body.code...)
}

// condition puts a test of an argument before then, which it skips if that fails.
func condition(c *specs.LinuxSeccompArg, then assembler) assembler {
	n := len(then.code) / instruction
	low, high := 16+8*uint32(c.Index), 20+8*uint32(c.Index)
	lo, hi := uint32(c.Value), uint32(c.Value>>32)
	skip := uint8(n)
	var a assembler
	switch c.Op {
	case specs.OpEqualTo, specs.OpMaskedEqual:
		wantLo, wantHi := lo, hi
		a.load(high)
		if c.Op == specs.OpMaskedEqual {
			wantLo, wantHi = uint32(c.ValueTwo), uint32(c.ValueTwo>>32)
			a.op(andK, hi, 0, 0)
			a.op(jeq, wantHi, 0, skip+3)
			a.load(low)
			a.op(andK, lo, 0, 0)
		} else {
			a.op(jeq, wantHi, 0, skip+2)
			a.load(low)
		}
		a.op(jeq, wantLo, 0, skip)
	case specs.OpNotEqual:
		a.load(high)
		a.op(jeq, hi, 0, 2)
		a.load(low)
		a.op(jeq, lo, skip, 0)
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		test := uint16(jgt)
		if c.Op == specs.OpGreaterEqual {
			test = jge
		}
		a.load(high)
		a.op(jgt, hi, 3, 0)
		a.op(jeq, hi, 0, skip+2)
		a.load(low)
		a.op(test, lo, 0, skip)
	default: // OpLessThan, OpLessEqual: the opposite
		test := uint16(jge)
		if c.Op == specs.OpLessEqual {
			test = jgt
		}
		a.load(high)
		a.op(jgt, hi, skip+3, 0)
		a.op(jeq, hi, 0, 2)
		a.load(low)
		a.op(test, lo, skip, 0)
	}
	a.code = append(a.code, then.code...)
	return a
}
