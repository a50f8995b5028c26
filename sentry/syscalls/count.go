package syscalls

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
)

// errnos is one more than the largest error number of Linux's (EHWPOISON is 133).
const errnos = 134

// counts are calls that were answered. A place is a call's number; what has none of
// ours shares the last. What the stores cost where threads of
// several processors make one call at once has not been measured.
type counts struct {
	calls  [len(names) + 1]struct{ done, failed, again atomic.Uint64 }
	errors [errnos]atomic.Uint64
}

func (c *counts) add(nr uint64, e unix.Errno) {
	of := &c.calls[min(nr, uint64(len(names)))]
	switch {
	case e == 0:
		of.done.Add(1)
	case e >= kernel.ERESTARTSYS && e <= kernel.ERESTART_RESTARTBLOCK:
		of.again.Add(1)
	default:
		of.failed.Add(1)
		c.errors[min(e, errnos-1)].Add(1)
	}
}

// Count is how often a call was answered.
type Count struct {
	Number      int // -1: calls that Linux does not have
	Done        uint64
	Failed      uint64
	Interrupted uint64 // by a signal, before it had done anything: made again, or EINTR
}

// Counts are the calls that were made, by number, and how often each error was
// given, by errno.
func (s *Server) Counts() (calls []Count, errors map[unix.Errno]uint64) {
	for nr := range s.counts.calls {
		of := &s.counts.calls[nr]
		c := Count{Number: nr, Done: of.done.Load(), Failed: of.failed.Load(), Interrupted: of.again.Load()}
		if nr == len(names) {
			c.Number = -1
		}
		if c.Done+c.Failed+c.Interrupted > 0 {
			calls = append(calls, c)
		}
	}
	errors = map[unix.Errno]uint64{}
	for e := range s.counts.errors {
		if n := s.counts.errors[e].Load(); n > 0 {
			errors[unix.Errno(e)] = n
		}
	}
	return calls, errors
}

// Served is how many calls were answered.
func (s *Server) Served() (n uint64) {
	for nr := range s.counts.calls {
		of := &s.counts.calls[nr]
		n += of.done.Load() + of.failed.Load() + of.again.Load()
	}
	return n
}
