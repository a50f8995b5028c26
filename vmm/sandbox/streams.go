package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// process is one in the guest whose streams are carried.
type process struct {
	files [3]*os.File // what the runtime gave; with a terminal the first goes both ways
	ids   [3]rpc.StreamID
	conns [3]<-chan net.Conn
	open  [3]net.Conn // what came of them
	tty   bool

	cancel *os.File // written to: standard input is read no more
	wake   *os.File
	inputs sync.WaitGroup

	mu        sync.Mutex
	moved     sync.Cond
	delivered [3]uint64 // bytes
	done      [3]bool   // nothing more comes
}

// newProcess makes streams of files, which it takes over.
func (b *switchboard) newProcess(files []*os.File, tty bool) (*process, error) {
	p := &process{tty: tty}
	p.moved.L = &p.mu
	var err error
	if p.wake, p.cancel, err = os.Pipe(); err != nil {
		return nil, err
	}
	for i, f := range files {
		p.files[i] = f
		p.ids[i], p.conns[i] = b.expect()
	}
	for i := range p.done {
		p.done[i] = p.files[i] == nil && !(tty && i == 1)
	}
	return p, nil
}

func (p *process) names() *rpc.Streams {
	s := &rpc.Streams{}
	for i, to := range []*[]byte{&s.Stdin, &s.Stdout, &s.Stderr} {
		if p.files[i] != nil {
			*to = p.ids[i][:]
		}
	}
	return s
}

// begin carries the streams of a process that the guest has started.
func (p *process) begin(b *switchboard) error {
	late := time.NewTimer(b.patience)
	defer late.Stop()
	for i, c := range p.conns {
		if c == nil {
			continue
		}
		select {
		case p.open[i] = <-c:
		case <-late.C:
			p.drop()
			p.abandon(b)
			return errors.New("the guest opens no streams for its process")
		}
	}
	conns := p.open
	if p.tty {
		raw(p.files[0])
	}
	if conns[0] != nil {
		p.inputs.Go(func() { p.input(conns[0]) })
		if p.tty {
			go p.carry(1, p.files[0], conns[0])
		}
	}
	for i := 1; i <= 2; i++ {
		if conns[i] != nil {
			go p.carry(i, p.files[i], conns[i])
		}
	}
	return nil
}

// abandon lets go of what was not begun.
func (p *process) abandon(b *switchboard) {
	for i, c := range p.conns {
		if c != nil {
			b.forget(p.ids[i], c)
			p.files[i].Close()
		}
	}
	p.cancel.Close()
	p.wake.Close()
}

// drop ends the streams, whatever they still have. The files go with those that had begun.
func (p *process) drop() {
	for _, c := range p.open {
		if c != nil {
			c.Close()
		}
	}
}

// stop reads standard input no more: the process has ended. Output goes on, for
// others may have it.
func (p *process) stop() { p.cancel.Close() }

// input carries standard input until its end, which becomes the stream's, or until
// the process has ended. The descriptor may be shared with others, so that it is
// neither made nonblocking nor read ahead of need.
func (p *process) input(to net.Conn) {
	defer p.wake.Close()
	if !p.tty {
		defer p.files[0].Close()
	}
	buf := make([]byte, 32<<10)
	fd := int(p.files[0].Fd())
	for readable(fd, int(p.wake.Fd())) {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		if _, err := to.Write(buf[:n]); err != nil {
			break // the process reads no more
		}
	}
	if p.tty {
		return // the terminal's other direction goes on
	}
	_ = to.(*net.UnixConn).CloseWrite()
	_, _ = io.Copy(io.Discard, to) // the guest closes when it has given all of it to the process
	to.Close()
}

// readable waits until fd is, and false says that cancel ended the wait.
func readable(fd, cancel int) bool {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(cancel), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		}
		return fds[1].Revents == 0
	}
}

// carry carries what a process prints, and counts it.
func (p *process) carry(i int, to *os.File, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if werr := writeAll(int(to.Fd()), buf[:n]); werr != nil {
				err = werr // nobody reads: the process gets SIGPIPE when the connection is gone
			}
			p.mu.Lock()
			p.delivered[i] += uint64(n)
			p.moved.Broadcast()
			p.mu.Unlock()
		}
		if err != nil {
			break
		}
	}
	from.Close()
	if p.tty { // the descriptor is read as well
		p.stop()
		p.inputs.Wait()
	}
	to.Close()
	p.mu.Lock()
	p.done[i] = true
	p.moved.Broadcast()
	p.mu.Unlock()
}

// writeAll writes to a descriptor that may be nonblocking, since others share it.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1) // EINTR: try again
		case err != nil:
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// settle waits until what a process had printed when it ended is where it was to go,
// or until nobody asks any more: how much that is the guest says.
func (p *process) settle(ctx context.Context, stdout, stderr uint64) {
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.moved.Broadcast()
	})()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, n := range [3]uint64{1: stdout, 2: stderr} {
		for !p.done[i] && p.delivered[i] < n && ctx.Err() == nil {
			p.moved.Wait()
		}
	}
}

// output waits for the end of all output, or until given is closed.
func (p *process) output(given <-chan struct{}) {
	all := make(chan struct{})
	go func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := 1; i <= 2; i++ {
			for !p.done[i] {
				p.moved.Wait()
			}
		}
		close(all)
	}()
	select {
	case <-all:
	case <-given:
	}
}

// raw makes the host's terminal a wire: the one inside does what a terminal does.
func raw(f *os.File) {
	fd := int(f.Fd())
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return // it is none, and needs nothing
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	_ = unix.IoctlSetTermios(fd, unix.TCSETS, t)
}
