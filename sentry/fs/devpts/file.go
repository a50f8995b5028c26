package devpts

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// end is one open description of a terminal.
type end struct {
	t     *Terminal
	flags atomic.Int64 // O_NONBLOCK changes what a read of few bytes returns
}

func (e *end) SetFlags(flags int) { e.flags.Store(int64(flags)) }
func (e *end) nonblock() bool     { return e.flags.Load()&unix.O_NONBLOCK != 0 }
func (e *end) Stream()            {}

// chunk is how much one turn of a read or write carries (tty_io.c,
// iterate_tty_read has 64 bytes, iterate_tty_write 2 KiB).
const (
	readChunk  = 64
	writeChunk = 2 << 10
)

// POLLRDNORM and POLLWRNORM (asm-generic/poll.h): N_TTY says both.
const (
	readNorm  vfs.Events = 0x40
	writeNorm vfs.Events = 0x100
)

// master is the end of a terminal emulator. Its own line discipline is raw.
type master struct{ end }

func (m *master) Queue() *vfs.Queue { return &m.t.masterQueue }
func (m *master) Release()          { m.t.closeMaster() }

// Read takes output, in packet mode behind a byte that says what it is.
func (m *master) Read(_ vfs.Context, dst buffers, _ int64) (int, error) {
	t := m.t
	t.mu.Lock()
	defer t.unlock()
	size := dst.Len()
	if size == 0 {
		return 0, nil
	}
	l := &t.line
	if l.packet && l.status != 0 {
		n := dst.CopyOut([]byte{l.status})
		l.status = 0
		return n, nil
	}
	if len(l.out) == 0 {
		if t.left {
			return 0, unix.EIO
		}
		return 0, unix.EAGAIN
	}
	head := 0
	if l.packet {
		head = dst.CopyOut([]byte{unix.TIOCPKT_DATA})
		dst = dst.Skip(head)
	}
	return head + t.takeOutput(dst), nil
}

// takeOutput moves output to dst and lets the slave write on.
func (t *Terminal) takeOutput(dst buffers) int {
	l := &t.line
	n := dst.CopyOut(l.out)
	t.drop(n)
	return n
}

// drop removes n bytes of output that have been read. Echoes that had no room
// wait for the next input or output, as in Linux.
func (t *Terminal) drop(n int) {
	l := &t.line
	l.out = l.out[:copy(l.out, l.out[n:])]
	if len(l.out) == 0 && cap(l.out) > bufSize {
		l.out = nil
	}
	if n > 0 {
		l.events.slave = true
	}
}

func (m *master) Write(_ vfs.Context, src buffers, _ int64) (int, error) {
	t := m.t
	t.mu.Lock()
	defer t.unlock()
	done := 0
	buf := make([]byte, min(writeChunk, src.Len()))
	for src.Len() > 0 {
		n := src.CopyIn(buf[:min(len(buf), t.inputRoom())])
		if n == 0 {
			break
		}
		src = src.Skip(n)
		t.input(buf[:n])
		done += n
	}
	if done == 0 && src.Len() > 0 {
		return 0, unix.EAGAIN
	}
	return done, nil
}

func (t *Terminal) inputRoom() int {
	if t.masterPaused {
		return 0
	}
	return max(flipLimit-len(t.in), 0)
}

// input is what the user types.
func (t *Terminal) input(b []byte) {
	t.in = append(t.in, b...)
	t.pump()
}

func (m *master) Ready(mask vfs.Events) vfs.Events {
	t := m.t
	t.mu.Lock()
	defer t.mu.Unlock()
	var ev vfs.Events
	if len(t.line.out) > 0 {
		ev |= vfs.EventIn | readNorm
	}
	if t.line.packet && t.line.status != 0 {
		ev |= vfs.EventIn | readNorm | vfs.EventPri
	}
	if t.inputRoom() > 0 {
		ev |= vfs.EventOut | writeNorm
	}
	if t.left {
		ev |= vfs.EventHup
	}
	return ev & (mask | vfs.EventHup | vfs.EventErr)
}

// slave is the end of programs.
type slave struct {
	end
	generation uint64
}

func (s *slave) Queue() *vfs.Queue { return &s.t.slaveQueue }
func (s *slave) Release()          { s.t.closeSlave() }
func (s *slave) hungUp() bool      { return s.generation != s.t.generation }

func (s *slave) Ready(mask vfs.Events) vfs.Events {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	var ev vfs.Events
	switch {
	case s.hungUp():
		ev = vfs.EventIn | vfs.EventOut | vfs.EventErr | vfs.EventHup | readNorm | writeNorm
	default:
		if t.line.readable() {
			ev |= vfs.EventIn | readNorm
		}
		if t.line.room() > 0 {
			ev |= vfs.EventOut | writeNorm
		}
	}
	return ev & (mask | vfs.EventHup | vfs.EventErr)
}

func (s *slave) Write(ctx vfs.Context, src buffers, _ int64) (int, error) {
	t := s.t
	t.mu.Lock()
	defer t.unlock()
	if s.hungUp() {
		return 0, unix.EIO
	}
	if t.line.lflag(unix.TOSTOP) {
		if err := t.checkChange(ctx, unix.SIGTTOU); err != nil {
			return 0, err
		}
	}
	t.touch(&t.mtime, ctx.Now())
	done := 0
	buf := make([]byte, min(writeChunk, src.Len()))
	for src.Len() > 0 {
		n := src.CopyIn(buf)
		if n == 0 {
			break
		}
		w := t.line.write(buf[:n])
		done += w
		if w < n {
			break
		}
		src = src.Skip(n)
	}
	if done == 0 && src.Len() > 0 {
		return 0, unix.EAGAIN
	}
	return done, nil
}

func (s *slave) Read(ctx vfs.Context, dst buffers, _ int64) (int, error) {
	return s.read(ctx, dst, false)
}

// Timed is a File whose readers lose patience (VTIME). The caller of a blocking
// Read that returned EAGAIN waits for the Queue at most ReadTimeout, if that is
// not zero, asking again after each wake-up; when the time is up it calls
// ReadLate and returns what that does.
type Timed interface {
	ReadTimeout() time.Duration
	ReadLate(ctx vfs.Context, dst buffers) (int, error)
}

// ReadTimeout says how long VTIME lets a reader wait for the next byte.
func (s *slave) ReadTimeout() time.Duration {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.line
	if l.icanon || l.tio.Cc[unix.VMIN] > 0 && l.commit == l.tail {
		return 0
	}
	return time.Duration(l.tio.Cc[unix.VTIME]) * 100 * time.Millisecond
}

// ReadLate is Read when ReadTimeout has passed: it takes what there is, perhaps
// nothing.
func (s *slave) ReadLate(ctx vfs.Context, dst buffers) (int, error) {
	return s.read(ctx, dst, true)
}

func (s *slave) read(ctx vfs.Context, dst buffers, late bool) (int, error) {
	t := s.t
	t.mu.Lock()
	defer t.unlock()
	if s.hungUp() {
		return 0, nil
	}
	if err := t.checkChange(ctx, unix.SIGTTIN); err != nil {
		return 0, err
	}
	size := dst.Len()
	if size == 0 {
		return 0, nil
	}
	l := &t.line
	if !l.enough(size, late || s.nonblock()) {
		if late || l.returnsEmpty() {
			return 0, nil
		}
		return 0, unix.EAGAIN
	}
	b := l.take1(size)
	n := dst.CopyOut(b)
	t.touch(&t.atime, ctx.Now())
	t.pump()
	if n < len(b) {
		return n, unix.EFAULT
	}
	return n, nil
}

// IOReason implements vfs.Signaller. Both queues are told of more than input.
func (m *master) IOReason(vfs.Events) vfs.IOReason { return inputOf(m.Ready(vfs.EventIn)) }

// IOReason implements vfs.Signaller.
func (s *slave) IOReason(vfs.Events) vfs.IOReason { return inputOf(s.Ready(vfs.EventIn)) }

func inputOf(e vfs.Events) vfs.IOReason {
	if e&vfs.EventIn != 0 {
		return vfs.IOIn
	}
	return 0
}
