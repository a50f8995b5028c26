package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// methods are the calls by their names on the wire. The files are the method's
// to close.
var methods = map[string]func(ctx context.Context, h Handler, body []byte, files []*os.File) (any, error){
	"hello": func(context.Context, Handler, []byte, []*os.File) (any, error) {
		return Info{Version: Version, Program: "bulkhead"}, nil
	},
	"start": plain(func(ctx context.Context, h Handler, container string) (any, error) {
		return nil, h.Start(ctx, container)
	}),
	"condition": plain(func(ctx context.Context, h Handler, container string) (any, error) {
		c, ok := h.(Conditioned)
		if !ok {
			return nil, &Error{Message: "agent: this sandbox does not tell", Errno: unix.ENOSYS}
		}
		return answer(c.Condition(ctx, container))
	}),
	"exec": func(ctx context.Context, h Handler, body []byte, files []*os.File) (any, error) {
		var r ExecRequest
		if err := json.Unmarshal(body, &r); err != nil {
			closeAll(files)
			return nil, fmt.Errorf("agent: parse exec: %w", err)
		}
		if r.Process == nil {
			closeAll(files)
			return nil, errors.New("agent: exec without a process")
		}
		return answer(h.Exec(ctx, &r, files))
	},
	"add": func(ctx context.Context, h Handler, body []byte, files []*os.File) (any, error) {
		p, ok := h.(Podding)
		if !ok {
			closeAll(files)
			return nil, &Error{Message: "agent: this sandbox takes no further container", Errno: unix.ENOSYS}
		}
		var r AddRequest
		if err := json.Unmarshal(body, &r); err != nil {
			closeAll(files)
			return nil, fmt.Errorf("agent: parse add: %w", err)
		}
		if r.Container == "" || r.Spec == nil || r.Spec.Process == nil || r.Spec.Root == nil || r.Spec.Linux == nil {
			closeAll(files)
			return nil, errors.New("agent: add without a name or a complete spec")
		}
		return nil, p.Add(ctx, &r, files)
	},
	"remove": plain(func(ctx context.Context, h Handler, container string) (any, error) {
		p, ok := h.(Podding)
		if !ok {
			return nil, &Error{Message: "agent: this sandbox has no further container", Errno: unix.ENOSYS}
		}
		return nil, p.Remove(ctx, container)
	}),
	"trace": filed("trace", "a file to write to", func(ctx context.Context, h Handler, r TraceRequest, to *os.File) (any, error) {
		t, ok := h.(Tracing)
		if !ok {
			return nil, &Error{Message: "agent: this sandbox cannot trace", Errno: unix.ENOSYS}
		}
		return nil, t.Trace(ctx, &r, to)
	}),
	"checkpoint": filed("checkpoint", "a file to write to", func(ctx context.Context, h Handler, r CheckpointRequest, to *os.File) (any, error) {
		c, ok := h.(Checkpointing)
		if !ok {
			return nil, &Error{Message: "agent: this sandbox cannot save its state", Errno: unix.ENOSYS}
		}
		return nil, c.Checkpoint(ctx, &r, to)
	}),
	"oom": filed("oom", "a pipe to write to", func(ctx context.Context, h Handler, container string, to *os.File) (any, error) {
		o, ok := h.(Starving)
		if !ok {
			return nil, &Error{Message: "agent: this sandbox does not tell of kills", Errno: unix.ENOSYS}
		}
		return nil, o.OOM(ctx, container, to)
	}),
	"forward": func(ctx context.Context, h Handler, body []byte, files []*os.File) (any, error) {
		f, ok := h.(Forwarding)
		var r ForwardRequest
		err := json.Unmarshal(body, &r)
		switch {
		case !ok:
			err = &Error{Message: "agent: this sandbox forwards no connections", Errno: unix.ENOSYS}
		case err != nil:
			err = fmt.Errorf("agent: parse forward: %w", err)
		case len(files) != 1:
			err = errors.New("agent: forward without a connection")
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		return nil, f.Forward(ctx, &r, files[0])
	},
	"signal": plain(func(ctx context.Context, h Handler, r SignalRequest) (any, error) {
		return nil, h.Signal(ctx, &r)
	}),
	"wait": plain(func(ctx context.Context, h Handler, r WaitRequest) (any, error) {
		s, err := h.Wait(ctx, &r)
		if err != nil && r.Kill && ctx.Err() != nil {
			h.Signal(context.WithoutCancel(ctx), &SignalRequest{Container: r.Container, PID: r.PID, Signal: int(unix.SIGKILL)})
		}
		return answer(s, err)
	}),
	"resize": plain(func(ctx context.Context, h Handler, r ResizeRequest) (any, error) {
		return nil, h.Resize(ctx, &r)
	}),
	"processes": plain(func(ctx context.Context, h Handler, container string) (any, error) {
		return answer(h.Processes(ctx, container))
	}),
	"stats": plain(func(ctx context.Context, h Handler, container string) (any, error) {
		return answer(h.Stats(ctx, container))
	}),
	"metrics": plain(func(ctx context.Context, h Handler, container string) (any, error) {
		m, ok := h.(Metering)
		if !ok {
			return nil, &Error{Message: "agent: this sandbox does not count", Errno: unix.ENOSYS}
		}
		return answer(m.Metrics(ctx, container))
	}),
	"update": plain(func(ctx context.Context, h Handler, r UpdateRequest) (any, error) {
		return nil, h.Update(ctx, &r)
	}),
	"givenBack": plain(func(ctx context.Context, h Handler, patience time.Duration) (any, error) {
		s, ok := h.(Shrinking)
		if !ok {
			return nil, &Error{Message: "agent: this sandbox gives nothing back", Errno: unix.ENOSYS}
		}
		return answer(s.GivenBack(ctx, patience))
	}),
	"pause": plain(func(ctx context.Context, h Handler, container string) (any, error) {
		return nil, h.Pause(ctx, container)
	}),
	"resume": plain(func(ctx context.Context, h Handler, container string) (any, error) {
		return nil, h.Resume(ctx, container)
	}),
	"debug": plain(func(ctx context.Context, h Handler, what string) (any, error) {
		return answer(h.Debug(ctx, what))
	}),
}

// plain is a method that takes no descriptors.
func plain[R any](f func(context.Context, Handler, R) (any, error)) func(context.Context, Handler, []byte, []*os.File) (any, error) {
	return func(ctx context.Context, h Handler, body []byte, files []*os.File) (any, error) {
		closeAll(files)
		var r R
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, fmt.Errorf("agent: parse request: %w", err)
		}
		return f(ctx, h, r)
	}
}

// filed is a method that takes one descriptor, what, which is closed when f returns.
func filed[R any](name, what string, f func(context.Context, Handler, R, *os.File) (any, error)) func(context.Context, Handler, []byte, []*os.File) (any, error) {
	return func(ctx context.Context, h Handler, body []byte, files []*os.File) (any, error) {
		defer closeAll(files)
		var r R
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, fmt.Errorf("agent: parse %s: %w", name, err)
		}
		if len(files) != 1 {
			return nil, fmt.Errorf("agent: %s without %s", name, what)
		}
		return f(ctx, h, r, files[0])
	}
}

func answer[T any](v T, err error) (any, error) { return v, err }

// Listener is ControlFD as a listener.
func Listener(fd uintptr) (*net.UnixListener, error) {
	f := os.NewFile(fd, "control socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("agent: listen on descriptor %d: %w", fd, err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("agent: descriptor %d is no Unix socket", fd)
	}
	ul.SetUnlinkOnClose(false) // the runtime made the name and removes it
	return ul, nil
}

// Serve answers on every connection that l accepts until ctx ends; it then
// closes l and the connections, waits for the calls, and returns nil.
func Serve(ctx context.Context, l *net.UnixListener, h Handler, log *slog.Logger) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("agent: accept: %w", err)
		}
		conns.Go(func() {
			if err := ServeConn(ctx, conn, h); err != nil {
				log.Warn("agent connection dropped", "err", err)
			}
		})
	}
}

// ServeConn answers on one connection until the peer hangs up or ctx ends, and
// returns when its last call has. It closes conn.
func ServeConn(ctx context.Context, conn *net.UnixConn, h Handler) error {
	w := &wire{conn: conn, files: true}
	var calls sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		// Cancel first: a Wait that nobody listens to has to end.
		stop()
		cancel()
		conn.Close()
		calls.Wait()
	}()
	for {
		m, files, err := w.receive()
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		calls.Go(func() {
			if g, ok := h.(Guarded); ok {
				defer g.Guard()
			}
			reply := call(ctx, h, m, files)
			if err := w.send(reply, nil); errors.Is(err, errTooLong) {
				w.send(&message{ID: reply.ID, Error: wireError(err)}, nil)
			}
		}) // another send fails when the peer is gone, as receive will tell
	}
}

func call(ctx context.Context, h Handler, m *message, files []*os.File) *message {
	reply := &message{ID: m.ID}
	method := methods[m.Method]
	if method == nil {
		closeAll(files)
		reply.Error = &Error{Message: fmt.Sprintf("agent: no method %q", m.Method), Errno: unix.ENOSYS}
		return reply
	}
	v, err := method(ctx, h, m.Body, files)
	if err == nil {
		reply.Body, err = json.Marshal(v)
	}
	if err != nil {
		reply.Error = wireError(err)
	}
	return reply
}
