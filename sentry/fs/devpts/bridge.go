package devpts

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Bridge joins a terminal inside to a terminal of the host: what is typed there
// arrives here, what programs print here appears there. Programs see a terminal
// of the Sentry's, with its line discipline and its job control; the host's end
// is raw and only carries bytes.
type Bridge struct {
	t    *Terminal
	host *os.File
	old  *unix.Termios // to restore; nil if host is no terminal

	changed chan struct{} // told of changes of the master end
	waiter  *vfs.Waiter

	mu      sync.Mutex
	idle    *sync.Cond // signalled when output has reached the host
	sending bool       // output is between the terminal and the host
	dead    bool       // the host takes no more

	once   sync.Once
	finish chan struct{}
	pumps  sync.WaitGroup
}

// NewBridge makes a terminal in fs for the host's descriptor fd, which stays the
// caller's. ctx's user owns the terminal.
func NewBridge(ctx vfs.Context, fs *FileSystem, fd int) (*Bridge, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("devpts: duplicate terminal descriptor %d: %w", fd, err)
	}
	if err := unix.SetNonblock(own, true); err != nil {
		unix.Close(own)
		return nil, fmt.Errorf("devpts: make terminal descriptor %d nonblocking: %w", fd, err)
	}
	t, err := fs.newTerminal(ctx, vfs.Path{})
	if err != nil {
		unix.Close(own)
		return nil, fmt.Errorf("devpts: new terminal: %w", err)
	}
	t.locked = false
	b := &Bridge{t: t, host: os.NewFile(uintptr(own), "terminal"), changed: make(chan struct{}, 1), finish: make(chan struct{})}
	b.idle = sync.NewCond(&b.mu)
	b.makeRaw()
	b.SyncSize()
	b.waiter = vfs.NewWaiter(vfs.EventIn|vfs.EventOut, b.changed)
	t.masterQueue.Add(b.waiter)
	b.pumps.Add(2)
	go b.pumpIn()
	go b.pumpOut()
	return b, nil
}

// Terminal is the end inside; /dev/pts has it by its Index.
func (b *Bridge) Terminal() *Terminal { return b.t }

func (b *Bridge) control(f func(fd int)) {
	if c, err := b.host.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// makeRaw is cfmakeraw(3) on the host's end.
func (b *Bridge) makeRaw() {
	b.control(func(fd int) {
		old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return
		}
		raw := *old
		raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		raw.Oflag &^= unix.OPOST
		raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
		if unix.IoctlSetTermios(fd, unix.TCSETS, &raw) == nil {
			b.old = old
		}
	})
}

// SyncSize gives the terminal inside the window size of the host's.
func (b *Bridge) SyncSize() {
	b.control(func(fd int) {
		if w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			b.Resize(*w)
		}
	})
}

// Resize sets the window size; the foreground job gets SIGWINCH if it changed.
func (b *Bridge) Resize(w unix.Winsize) {
	b.t.mu.Lock()
	defer b.t.unlock()
	b.t.setWindow(w)
}

// pumpIn carries what is typed. When the host's end goes the terminal hangs up.
func (b *Bridge) pumpIn() {
	defer b.pumps.Done()
	buf := make([]byte, writeChunk)
	for {
		n, err := b.host.Read(buf)
		if !b.typed(buf[:n]) {
			return
		}
		if err != nil {
			break
		}
	}
	select {
	case <-b.finish:
	default:
		b.t.closeMaster()
		b.stop()
	}
}

// typed hands p to the line discipline, waiting for room; false if closing.
func (b *Bridge) typed(p []byte) bool {
	c := make(chan struct{}, 1)
	w := vfs.NewWaiter(vfs.EventOut, c)
	b.t.masterQueue.Add(w)
	defer b.t.masterQueue.Remove(w)
	for {
		b.t.mu.Lock()
		n := min(len(p), b.t.inputRoom())
		b.t.input(p[:n])
		b.t.unlock()
		if p = p[n:]; len(p) == 0 {
			return true
		}
		select {
		case <-c:
		case <-b.finish:
			return false
		}
	}
}

// pumpOut carries what is printed, until the bridge is closed. A host that takes
// no more makes no program wait.
func (b *Bridge) pumpOut() {
	defer b.pumps.Done()
	for !b.stopped() {
		p := b.printed()
		if p == nil {
			select {
			case <-b.changed:
				continue
			case <-b.finish:
				return
			}
		}
		_, err := b.host.Write(p)
		b.mu.Lock()
		b.sending = false
		b.dead = b.dead || err != nil
		b.idle.Broadcast()
		b.mu.Unlock()
	}
}

// printed takes the output there is, or nil.
func (b *Bridge) printed() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.t.mu.Lock()
	defer b.t.unlock()
	l := &b.t.line
	if len(l.out) == 0 {
		b.idle.Broadcast()
		return nil
	}
	p := append([]byte(nil), l.out...)
	b.t.drop(len(p))
	b.sending = true
	return p
}

// Drain returns when the host has all that was printed, or takes no more.
func (b *Bridge) Drain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.dead && !b.stopped() && (b.sending || b.pending()) {
		b.idle.Wait()
	}
}

func (b *Bridge) pending() bool {
	b.t.mu.Lock()
	defer b.t.mu.Unlock()
	return len(b.t.line.out) > 0
}

func (b *Bridge) stopped() bool {
	select {
	case <-b.finish:
		return true
	default:
		return false
	}
}

// stop ends both pumps without waiting for them.
func (b *Bridge) stop() {
	b.once.Do(func() {
		close(b.finish)
		past := time.Unix(1, 0)
		b.host.SetReadDeadline(past)
		b.host.SetWriteDeadline(past)
		b.mu.Lock()
		b.idle.Broadcast()
		b.mu.Unlock()
	})
}

// Close hangs the terminal up and gives the host's its settings back. Output
// that has not been drained is lost: call Drain first, unless the host's reader
// is not trusted to read. It may be called twice.
func (b *Bridge) Close() {
	b.stop()
	b.pumps.Wait()
	b.t.masterQueue.Remove(b.waiter)
	if b.old != nil {
		b.control(func(fd int) { unix.IoctlSetTermios(fd, unix.TCSETS, b.old) })
		b.old = nil
	}
	b.t.closeMaster()
	b.host.Close()
}
