package boot

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/sentry/syscalls"
)

// traceBacklog is how many calls wait for a slow reader before some are lost: the
// container's programs are not to wait for one.
const traceBacklog = 4096

// lastWords is how long the end of a sandbox waits for its listener.
const lastWords = time.Second

var _ agent.Tracing = (*sandbox)(nil)

// Trace implements agent.Tracing. There is one listener at a time.
func (s *sandbox) Trace(ctx context.Context, r *agent.TraceRequest, to *os.File) error {
	c, err := s.find(r.Container)
	if err != nil {
		return err
	}
	records := make(chan syscalls.Record, traceBacklog)
	var lost atomic.Uint64
	stream := &syscalls.Stream{Path: r.Path, Failed: r.Failed, Sink: func(rec syscalls.Record) {
		select {
		case records <- rec:
		default:
			lost.Add(1)
		}
	}}
	for _, name := range r.Calls {
		if _, ok := syscalls.Number(name); !ok {
			return fmt.Errorf("%q is no system call", name)
		}
		if stream.Calls == nil {
			stream.Calls = map[string]bool{}
		}
		stream.Calls[name] = true
	}
	for _, pid := range r.PIDs {
		if stream.PIDs == nil {
			stream.PIDs = map[int32]bool{}
		}
		stream.PIDs[int32(pid)] = true
	}
	if c != s.first { // whose are all, as the sandbox is
		stream.Of = c.home.Cgroup()
	}
	if !s.calls.TraceIfNone(stream) {
		return fmt.Errorf("somebody traces this sandbox already: %w", unix.EBUSY)
	}
	defer s.calls.Trace(nil)
	// What is told by the time of the end is written, but a reader that does not read
	// must not keep the sandbox.
	defer context.AfterFunc(ctx, func() {
		if to.SetWriteDeadline(time.Now().Add(lastWords)) != nil {
			to.Close()
		}
	})()
	out := json.NewEncoder(to)
	for {
		var rec syscalls.Record
		select {
		case rec = <-records:
		case <-ctx.Done():
			select {
			case rec = <-records:
			default:
				return nil
			}
		}
		if out.Encode(eventOf(&rec, lost.Swap(0))) != nil {
			return nil // nobody reads any more
		}
	}
}

func eventOf(r *syscalls.Record, lost uint64) *agent.TraceEvent {
	e := &agent.TraceEvent{Time: r.At, PID: int(r.PID), TID: int(r.TID), Command: r.Comm, Call: r.Call, Args: r.Args,
		Errno: r.Errno, Took: int64(r.Took), Lost: lost}
	if e.Args == nil {
		e.Args = []string{}
	}
	if r.Ended {
		e.Result = &r.Result
	}
	return e
}
