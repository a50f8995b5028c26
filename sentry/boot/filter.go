package boot

import (
	"encoding/binary"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/sentry/bpf"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/syscalls"
)

// A bundle's linux.seccomp becomes a filter of every process of the container's, as
// runc makes it with libseccomp: a rule without arguments beats those with, of these
// the first that holds counts, and calls that are younger than all that the profile
// names are ENOSYS (runc, libcontainer/seccomp/patchbpf).

// answers are the actions' values; errno is added to those that have one.
var answers = map[specs.LinuxSeccompAction]struct {
	value uint32
	errno bool
}{
	specs.ActKill:        {kernel.RetKillThread, false},
	specs.ActKillThread:  {kernel.RetKillThread, false},
	specs.ActKillProcess: {kernel.RetKillProcess, false},
	specs.ActTrap:        {kernel.RetTrap, false},
	specs.ActErrno:       {kernel.RetErrno, true},
	specs.ActTrace:       {kernel.RetTrace, true},
	specs.ActAllow:       {kernel.RetAllow, false},
	specs.ActLog:         {kernel.RetLog, false},
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

// compileFilter makes the filter of a profile.
func compileFilter(p *specs.LinuxSeccomp) (*kernel.Filter, error) {
	other, err := answerOf(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	rules, youngest, err := rulesOf(p, other)
	if err != nil {
		return nil, err
	}
	var a assembler
	a.load(0)
	for nr := range youngest + 1 {
		a.call(uint32(nr), rules[nr])
	}
	if other != kernel.RetAllow {
		a.op(jgt, uint32(youngest), 0, 1)
		a.op(ret, kernel.RetErrno|uint32(unix.ENOSYS), 0, 0)
	}
	a.op(ret, other, 0, 0)
	prog, err := bpf.Parse(a.code)
	if err != nil {
		return nil, fmt.Errorf("linux.seccomp: %d rules are more than a filter holds", len(rules))
	}
	return kernel.MakeFilter(prog), nil
}

// rulesOf sorts the rules by call; youngest is the largest number that has a name.
func rulesOf(p *specs.LinuxSeccomp, other uint32) (rules map[int][]rule, youngest int, err error) {
	rules = map[int][]rule{}
	for _, s := range p.Syscalls {
		answer, err := answerOf(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, 0, err
		}
		for _, name := range s.Names {
			nr, ok := syscalls.Number(name)
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
	a.op(jmp, uint32(len(body.code)/bpf.InstructionSize), 0, 0)
	a.code = append(a.code, body.code...)
}

// condition puts a test of an argument before then, which it skips if that fails.
func condition(c *specs.LinuxSeccompArg, then assembler) assembler {
	n := len(then.code) / bpf.InstructionSize
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
