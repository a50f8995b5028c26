package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"bulkhead/runtime/console"

	"golang.org/x/sys/unix"
)

// A process's streams are containerd's named pipes, and go to the sandbox as they are:
// nothing is copied on the way. What is held beside them keeps both directions open while
// containerd is away, and is let go with the process. With a terminal the shim has the
// master and copies.

// streams are what a process is to be connected with: paths of named pipes, "" for none,
// or URIs: file:///path, and binary:///program?argument=value, a logger's.
type streams struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// stdio is a process's connection.
type stdio struct {
	files [3]*os.File  // for the sandbox; of a terminal, the slave as the first
	pty   *console.Pty // or nil

	mu     sync.Mutex
	stdin  io.Closer   // the writing end that keeps standard input from its end
	held   []io.Closer // to let go with the process
	copied sync.WaitGroup
}

// openStreams opens all; on failure nothing stays.
func openStreams(s streams, id, namespace string) (_ *stdio, err error) {
	o := &stdio{}
	defer func() {
		if err != nil {
			o.handedOver()
			o.ended()
		}
	}()
	if s.Terminal {
		return o, o.openTerminal(s)
	}
	if o.files[0], err = o.openInput(s.Stdin); err != nil {
		return nil, fmt.Errorf("standard input %s: %w", s.Stdin, err)
	}
	if strings.HasPrefix(s.Stdout, "binary://") {
		return o, o.startLogger(s.Stdout, id, namespace)
	}
	if o.files[1], err = o.openOutput(s.Stdout); err != nil {
		return nil, fmt.Errorf("standard output %s: %w", s.Stdout, err)
	}
	if o.files[2], err = o.openOutput(s.Stderr); err != nil {
		return nil, fmt.Errorf("standard error %s: %w", s.Stderr, err)
	}
	return o, nil
}

func (o *stdio) openInput(path string) (*os.File, error) {
	if path == "" {
		return os.Open(os.DevNull)
	}
	// Who opens a pipe without waiting waits for no writer.
	f, err := openRaw(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	writer, err := openRaw(path, unix.O_WRONLY)
	if err != nil {
		f.Close()
		return nil, err
	}
	o.stdin = writer
	return f, nil
}

func (o *stdio) openOutput(path string) (*os.File, error) {
	if path == "" {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	if u, err := url.Parse(path); err == nil && u.Scheme == "file" {
		if err := os.MkdirAll(filepath.Dir(u.Path), 0o755); err != nil {
			return nil, err
		}
		return os.OpenFile(u.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	} else if err == nil && u.Scheme != "" && u.Scheme != "fifo" {
		return nil, fmt.Errorf("%s: streams go to a named pipe, file:// or binary://", u.Scheme)
	} else if err == nil && u.Scheme == "fifo" {
		path = u.Path
	}
	return o.openPipe(path)
}

// readerPatience is how long a pipe waits for who is to read it: containerd has begun to open it by now.
const readerPatience = 10 * time.Second

// openPipe opens a named pipe for writing when somebody has it open for reading: who comes when all of a
// short process has been written and closed would wait for another writer for ever (fifo(7)). From then on
// it is open for reading here as well, so that a reader may go and another come.
func (o *stdio) openPipe(path string) (*os.File, error) {
	type end struct {
		fd  int
		err error
	}
	opened := make(chan end, 1)
	go func() {
		for {
			fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != unix.EINTR {
				opened <- end{fd, err}
				return
			}
		}
	}()
	var e end
	late := time.NewTimer(readerPatience)
	defer late.Stop()
	waits := false
	select {
	case e = <-opened:
	case <-late.C:
		waits = true
	}
	reader, err := openRaw(path, unix.O_RDONLY) // for which an open that still waits goes on
	if err == nil {
		o.held = append(o.held, reader)
	}
	if waits && err == nil {
		e = <-opened
	}
	if e.err != nil {
		return nil, e.err
	}
	if err != nil {
		if !waits {
			unix.Close(e.fd)
		}
		return nil, err
	}
	return os.NewFile(uintptr(e.fd), path), nil
}

// openRaw opens an end of a pipe without waiting for the other, which for writing has to
// be there (fifo(7)). From then on it blocks, as a container's streams do.
func openRaw(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openTerminal makes a terminal and copies between its master and the pipes.
func (o *stdio) openTerminal(s streams) (err error) {
	if o.pty, err = console.New(0, 0); err != nil {
		return err
	}
	o.files[0] = o.pty.Slave
	o.held = append(o.held, o.pty.Master)
	// A master of our own that can be waited for without a thread: its reads end with
	// the last slave, its writes when it is closed.
	master, err := pollable(o.pty.Master)
	if err != nil {
		return err
	}
	if s.Stdin != "" {
		// Non-blocking, so that Go's poller has it and Close ends a read.
		in, err := os.OpenFile(s.Stdin, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			master.Close()
			return fmt.Errorf("standard input %s: %w", s.Stdin, err)
		}
		writer, err := openRaw(s.Stdin, unix.O_WRONLY)
		if err != nil {
			master.Close()
			in.Close()
			return fmt.Errorf("standard input %s: %w", s.Stdin, err)
		}
		o.stdin = writer
		o.held = append(o.held, in)
		go io.Copy(master, in)
	}
	var out io.WriteCloser = nopCloser{io.Discard}
	if s.Stdout != "" {
		first, err := o.openPipe(s.Stdout)
		if err != nil {
			master.Close()
			return fmt.Errorf("standard output %s: %w", s.Stdout, err)
		}
		defer first.Close() // Go's poller cannot have one that blocks
		if out, err = os.OpenFile(s.Stdout, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
			master.Close()
			return fmt.Errorf("standard output %s: %w", s.Stdout, err)
		}
	}
	o.copied.Go(func() {
		io.Copy(out, master)
		out.Close()
		master.Close()
	})
	return nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// pollable is a copy of a descriptor that Go waits for without a thread.
func pollable(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, failed := -1, error(nil)
	err = conn.Control(func(n uintptr) {
		if failed = unix.SetNonblock(int(n), true); failed == nil {
			fd, failed = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// loggerPatience is for a logger to say that it reads.
const loggerPatience = 10 * time.Second

// startLogger starts the program that takes both outputs: they are its descriptors 3 and
// 4, and it closes 5 when it is ready (containerd, core/runtime/v2/logging).
func (o *stdio) startLogger(uri, id, namespace string) error {
	u, err := url.Parse(uri)
	if err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	var args []string
	for name, values := range u.Query() {
		args = append(args, name)
		if len(values) > 0 {
			args = append(args, values[0])
		}
	}
	var readers [2]*os.File
	for i := range readers {
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("logger: %w", err)
		}
		defer r.Close()
		readers[i], o.files[1+i] = r, w
	}
	ready, done, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(u.Path, args...)
	cmd.Env = []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + namespace} // and nothing of ours
	cmd.ExtraFiles = []*os.File{readers[0], readers[1], done}
	err = cmd.Start()
	done.Close()
	if err != nil {
		return fmt.Errorf("logger %s: %w", u.Path, err)
	}
	go cmd.Wait() // it ends with the last writer
	ready.SetReadDeadline(time.Now().Add(loggerPatience))
	var one [1]byte
	if _, err := ready.Read(one[:]); err != nil && err != io.EOF {
		cmd.Process.Kill()
		return fmt.Errorf("logger %s: it does not say that it is ready: %w", u.Path, err)
	}
	return nil
}

// handedOver lets go of what the sandbox has copies of.
func (o *stdio) handedOver() {
	for i, f := range o.files {
		if f != nil {
			f.Close()
			o.files[i] = nil
		}
	}
}

// closeInput ends standard input once all other writers have closed it.
func (o *stdio) closeInput() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stdin != nil {
		o.stdin.Close()
		o.stdin = nil
	}
}

// resize sets a terminal's size.
func (o *stdio) resize(rows, columns uint16) error {
	if o.pty == nil {
		return errors.New("the process has no terminal")
	}
	// Not by its Fd, which would have the copy that is being read block.
	conn, err := o.pty.Master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	return errors.Join(err, failed)
}

// ended lets go of all once the process is gone.
func (o *stdio) ended() {
	o.closeInput()
	for _, c := range o.held {
		c.Close()
	}
	o.held = nil
}

// drain waits until a terminal's last output is with containerd's pipe, which needs a
// reader: not for longer than ctx.
func (o *stdio) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		o.copied.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
