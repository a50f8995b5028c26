package kernel

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/bpf"
)

// Modes of seccomp(2).
const (
	SeccompDisabled = 0
	SeccompStrict   = 1
	SeccompFilter   = 2
)

// Answers of a filter, and what surrounds them (include/uapi/linux/seccomp.h).
const (
	RetKillProcess = 0x80000000
	RetKillThread  = 0
	RetTrap        = 0x00030000
	RetErrno       = 0x00050000
	RetUserNotif   = 0x7fc00000
	RetTrace       = 0x7ff00000
	RetLog         = 0x7ffc0000
	RetAllow       = 0x7fff0000

	retAction = 0xffff0000
	maxErrno  = 4095
)

// Filter is one filter of a chain: the ones that were set before it follow. All but
// users and listener never change.
type Filter struct {
	prog  *bpf.Program
	prev  *Filter
	depth int
	total int // instructions from here on, with Linux's penalty of 4 a filter
	// allowed are the calls that the chain allows whatever their arguments are.
	allowed [512 / 64]uint64

	users    atomic.Int64 // tasks that have it first, and a filter in front of it
	listener atomic.Pointer[Listener]
}

// maxChain is MAX_INSNS_PER_PATH.
const maxChain = (1 << 18) / bpf.InstructionSize

// SeccompState is the mode and the number of filters, for /proc.
func (t *Task) SeccompState() (mode, filters int) {
	f := t.filter.Load()
	if f == nil {
		return int(t.strict.Load()), 0
	}
	return SeccompFilter, f.depth
}

// StrictMode is SECCOMP_SET_MODE_STRICT.
func (t *Task) StrictMode() error {
	if t.filter.Load() != nil {
		return unix.EINVAL
	}
	t.strict.Store(SeccompStrict)
	t.hooks.Or(hookSeccomp)
	return nil
}

// NewFilter is what AddFilter is asked for.
type NewFilter struct {
	Program  *bpf.Program
	Sync     bool // all threads get it
	Listener *Listener
}

// AddFilter puts a filter before those that t has. With Sync it may instead return
// the id of a thread whose filters are no ancestors of t's.
func (t *Task) AddFilter(n NewFilter) (clash int32, err error) {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	prev := t.filter.Load()
	if t.strict.Load() != 0 {
		return 0, unix.EINVAL
	}
	f := &Filter{prog: n.Program, prev: prev, depth: 1, total: n.Program.Len() + 4}
	if prev != nil {
		f.depth, f.total = prev.depth+1, f.total+prev.total
	}
	if f.total-4 > maxChain {
		return 0, unix.ENOMEM
	}
	if n.Listener != nil {
		for old := prev; old != nil; old = old.prev {
			if old.listener.Load() != nil {
				return 0, unix.EBUSY
			}
		}
	}
	if n.Sync {
		for _, x := range t.group.tasks {
			if x != t && (x.strict.Load() != 0 || !prev.reaches(x.filter.Load())) {
				return t.Number(x.ID()), nil
			}
		}
	}
	f.precompute()
	if n.Listener != nil {
		n.Listener.filter = f
		f.listener.Store(n.Listener)
	}
	for _, x := range t.group.tasks {
		if x != t && !n.Sync {
			continue
		}
		if c := x.Creds(); t.Creds().NoNewPrivs && !c.NoNewPrivs {
			copied := *c
			copied.NoNewPrivs = true
			x.SetCreds(&copied)
		}
		f.users.Add(1)
		old := x.filter.Swap(f)
		if x != t {
			old.drop()
		}
		x.hooks.Or(hookSeccomp)
	}
	// t's use of prev is the new filter's now.
	return 0, nil
}

// reaches says that old, which may be nil, is f or one behind it.
func (f *Filter) reaches(old *Filter) bool {
	for ; f != old; f = f.prev {
		if f == nil {
			return false
		}
	}
	return true
}

// drop gives up one use of f; a listener whose last user went away hears of it.
func (f *Filter) drop() {
	for ; f != nil && f.users.Add(-1) == 0; f = f.prev {
		if l := f.listener.Load(); l != nil {
			l.orphaned()
		}
	}
}

// inheritFilterLocked gives n the filters of t.
func (n *Task) inheritFilterLocked(t *Task) {
	if f := t.filter.Load(); f != nil {
		f.users.Add(1)
		n.filter.Store(f)
		n.hooks.Or(hookSeccomp)
	}
	if t.strict.Load() != 0 {
		n.strict.Store(t.strict.Load())
		n.hooks.Or(hookSeccomp)
	}
}

// precompute finds the calls that are always allowed.
func (f *Filter) precompute() {
	for nr := range len(f.allowed) * 64 {
		if f.prev != nil && !f.prev.allows(nr) {
			continue
		}
		if v, ok := f.prog.Constant(&bpf.Data{Number: int32(nr), Arch: unix.AUDIT_ARCH_X86_64}); ok && v == RetAllow {
			f.allowed[nr/64] |= 1 << (nr % 64)
		}
	}
}

func (f *Filter) allows(nr int) bool {
	return uint(nr) < uint(len(f.allowed)*64) && f.allowed[nr/64]>>(nr%64)&1 != 0
}

// run asks all filters. The lowest action counts, as signed numbers; of several the
// filter that was set last.
func (f *Filter) run(d *bpf.Data) (answer uint32, by *Filter) {
	answer = RetAllow
	for ; f != nil; f = f.prev {
		v := f.prog.Run(d)
		if int32(v&retAction) < int32(answer&retAction) {
			answer, by = v, f
		}
	}
	return answer, by
}

// filterCall runs t's filters over the call in its registers. It reports whether
// the call is to be made (kernel/seccomp.c, __secure_computing).
func (t *Task) filterCall(traced bool) bool {
	c := t.Context()
	nr := int32(c.Orig_rax)
	if t.strict.Load() != 0 {
		return t.strictCall(nr)
	}
	f := t.filter.Load()
	if f == nil || f.allows(int(nr)) {
		return true
	}
	d := bpf.Data{Number: nr, Arch: unix.AUDIT_ARCH_X86_64, IP: c.Rip, Args: [6]uint64{c.Rdi, c.Rsi, c.Rdx, c.R10, c.R8, c.R9}}
	answer, by := f.run(&d)
	value := answer & 0xffff
	switch answer & retAction {
	case RetAllow:
		return true
	case RetLog:
		t.k.Log.Debug("seccomp", "task", t.TID(), "call", nr)
		return true
	case RetErrno:
		c.Rax = uint64(-int64(min(value, maxErrno)))
	case RetTrap:
		c.Rax = c.Orig_rax
		t.force(seccompInfo(&d, value))
	case RetTrace:
		return t.traceFiltered(traced, uint16(value))
	case RetUserNotif:
		return t.notifySupervisor(by.listener.Load(), &d)
	case RetKillThread:
		t.killFiltered(&d, value, false)
	default: // RetKillProcess, and what Linux does not know
		t.killFiltered(&d, value, true)
	}
	return false
}

// strictCall is __secure_computing_strict.
func (t *Task) strictCall(nr int32) bool {
	switch nr {
	case unix.SYS_READ, unix.SYS_WRITE, unix.SYS_EXIT, unix.SYS_RT_SIGRETURN:
		return true
	}
	t.Exit(int32(unix.SIGKILL))
	return false
}

// traceFiltered is SECCOMP_RET_TRACE: the tracer may change the call, and the filters
// look at what has become of it. again says that it has had its turn.
func (t *Task) traceFiltered(again bool, data uint16) bool {
	if again {
		return true
	}
	c := t.Context()
	if !t.EventWanted(EventSeccomp) {
		c.Rax = errnoReg(unix.ENOSYS)
		return false
	}
	c.Rax = errnoReg(unix.ENOSYS)
	t.event(EventSeccomp, uint64(data))
	if t.dying() || int32(c.Orig_rax) < 0 {
		return false
	}
	return t.filterCall(true)
}

// killFiltered ends the thread, or the process.
func (t *Task) killFiltered(d *bpf.Data, value uint32, process bool) {
	k := t.k
	k.mu.Lock()
	if process || len(t.group.tasks) == 1 {
		k.mu.Unlock()
		t.ctx.Rax = t.ctx.Orig_rax
		t.die(seccompInfo(d, value))
		return
	}
	defer k.mu.Unlock()
	t.exitStatus, t.killed = int32(unix.SIGSYS), true
	t.work.Or(workExit)
}

// seccompInfo is the siginfo of SIGSYS.
func seccompInfo(d *bpf.Data, value uint32) *SigInfo {
	i := newInfo(unix.SIGSYS, 1) // SYS_SECCOMP
	i.put32(4, value)
	i.put64(16, d.IP)
	i.put32(24, uint32(d.Number))
	i.put32(28, d.Arch)
	return i
}

// MakeFilter makes a filter for NewProcess: the container's own, which all processes
// that come from outside have first.
func MakeFilter(p *bpf.Program) *Filter {
	f := &Filter{prog: p, depth: 1, total: p.Len() + 4}
	f.users.Store(1) // the maker's
	f.precompute()
	return f
}

// Answer is what the filter and those behind it say of a call.
func (f *Filter) Answer(d *bpf.Data) uint32 {
	v, _ := f.run(d)
	return v
}
