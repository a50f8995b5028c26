// Package syscalls is the table of Linux's system calls: number, name, handler,
// how much of the call is there, and what is missing. Each family stands in one
// file, its rows beside its handlers.
//
// A handler gets the calling task and its six arguments, and returns the
// result or an errno. Only Serve makes a register of these. It knows every room
// of the Sentry above it and nothing of platforms.
package syscalls

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

// Args are the arguments as the registers had them.
type Args [6]uint64

// Addr is argument i as an address, Int as an int, Uint32 as an unsigned int,
// Size as a size_t, FD as a descriptor.
func (a *Args) Addr(i int) memory.Addr { return memory.Addr(a[i]) }
func (a *Args) Int(i int) int          { return int(int32(a[i])) }
func (a *Args) Int64(i int) int64      { return int64(a[i]) }
func (a *Args) Uint32(i int) uint32    { return uint32(a[i]) }
func (a *Args) Size(i int) uint64      { return a[i] }

// Handler answers one call.
type Handler func(t *kernel.Task, a *Args) (uintptr, error)

// Support says how much of a call is there.
type Support uint8

const (
	None Support = iota
	Partial
	Full
)

func (s Support) String() string { return [...]string{"none", "partial", "full"}[s] }

// Call is one row of the table.
type Call struct {
	Number  int
	Name    string
	Do      Handler
	Support Support
	Note    string // what is missing, or why the call is refused
}

// row is a Call before the table gives it its name.
type row struct {
	nr      int
	do      Handler
	support Support
	note    string
}

// errKeep is returned by handlers that have set the registers themselves.
var errKeep = errors.New("registers are set")

// refuse is a handler for a call that is not served on purpose.
func refuse(e unix.Errno) Handler {
	return func(*kernel.Task, *Args) (uintptr, error) { return 0, e }
}

// Table has a Call for every number.
var Table = build()

// Number is the call that has a name.
func Number(name string) (int, bool) {
	nr := slices.Index(names[:], name)
	return nr, nr >= 0 && name != ""
}

// Name is the call of a number, "unknown" where Linux has none.
func Name(nr int) string {
	if nr >= 0 && nr < len(names) && names[nr] != "" {
		return names[nr]
	}
	return "unknown"
}

// build makes the table of the families' rows; a number that stands twice is a
// bug of ours.
func build() (table [len(names)]Call) {
	for nr, name := range names {
		table[nr] = Call{Number: nr, Name: name}
	}
	for _, f := range families() {
		for _, r := range f {
			c := &table[r.nr]
			if c.Do != nil {
				panic(fmt.Sprintf("syscalls: %s stands twice in the table", c.Name))
			}
			c.Do, c.Support, c.Note = r.do, r.support, r.note
		}
	}
	return table
}

// Tracer hears of every call, for strace-like output.
type Tracer interface {
	Enter(t *kernel.Task, c *Call, a *Args)
	Exit(t *kernel.Task, c *Call, a *Args, result uintptr, err error)
}

// Server answers the calls of one kernel's tasks.
type Server struct {
	log     *slog.Logger
	unknown [len(names)]atomic.Bool // logged already
	counts  counts
	tracer  atomic.Pointer[Tracer]
}

// NewServer makes a Server that logs to log.
func NewServer(log *slog.Logger) *Server { return &Server{log: log} }

// TraceIfNone is Trace, unless somebody hears of them already.
func (s *Server) TraceIfNone(tr Tracer) bool { return s.tracer.CompareAndSwap(nil, &tr) }

// Trace sets who hears of calls; nil for nobody.
func (s *Server) Trace(tr Tracer) {
	if tr == nil {
		s.tracer.Store(nil)
		return
	}
	s.tracer.Store(&tr)
}

// Serve answers the call that t's registers describe.
func (s *Server) Serve(t *kernel.Task) {
	c := t.CallContext()
	nr := uint64(uint32(c.Orig_rax)) // arch/x86/entry/common.c, do_syscall_64
	if nr >= uint64(len(Table)) || Table[nr].Do == nil {
		s.missing(t, nr)
		s.counts.add(nr, unix.ENOSYS)
		c.Rax = errno(unix.ENOSYS)
		return
	}
	call := &Table[nr]
	args := (*Args)(t.CallArgs()) // on the heap they would cost more than a quick call
	*args = Args{c.Rdi, c.Rsi, c.Rdx, c.R10, c.R8, c.R9}
	t.SetSyscall(int64(nr))
	tr := s.tracer.Load()
	if tr != nil {
		(*tr).Enter(t, call, args)
	}
	result, err := call.Do(t, args)
	for m := missingPage(err); m != nil; m = missingPage(err) {
		if t.AwaitPage(m) != nil {
			err = kernel.ERESTARTNOINTR
			break
		}
		result, err = call.Do(t, args)
	}
	if tr != nil {
		(*tr).Exit(t, call, args, result, err)
	}
	t.SetSyscall(-1)
	var e unix.Errno
	switch err {
	case nil:
		c.Rax = uint64(result)
	case errKeep:
	default:
		e = s.errno(t, call, err)
		c.Rax = errno(e)
	}
	s.counts.add(nr, e)
}

// missingPage is the page that the program has to give before a call, which has done
// nothing yet, can be made; or nil.
func missingPage(err error) *memory.Missing {
	if err == nil {
		return nil
	}
	m, _ := err.(*memory.Missing)
	return m
}

// errno is what the application is told of err: an errno as it is, anything else
// a failure of the host's that becomes EIO.
func (s *Server) errno(t *kernel.Task, call *Call, err error) unix.Errno {
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	s.log.Error("system call", "call", call.Name, "task", t.TID(), "err", err)
	return unix.EIO
}

func errno(e unix.Errno) uint64 { return uint64(-int64(e)) }

// missing logs a call that has no handler, the first time.
func (s *Server) missing(t *kernel.Task, nr uint64) {
	if nr >= uint64(len(Table)) {
		return
	}
	if !s.unknown[nr].Swap(true) {
		s.log.Debug("unknown system call", "call", names[nr], "number", nr, "task", t.TID())
	}
}
