package devpts

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

type buffers = memory.Buffers

const addrb = 0o4000000000 // ADDRB, asm-generic/termbits-common.h; no pty has an address bit

// defaults are a new terminal's settings (drivers/tty/tty_io.c, tty_std_termios;
// pty.c, unix98_pty_init).
var defaults = unix.Termios{
	Iflag:  unix.ICRNL | unix.IXON,
	Oflag:  unix.OPOST | unix.ONLCR,
	Cflag:  unix.B38400 | unix.CS8 | unix.CREAD,
	Lflag:  unix.ISIG | unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHOCTL | unix.ECHOKE | unix.IEXTEN,
	Ispeed: 38400,
	Ospeed: 38400,
	Cc: [19]uint8{
		unix.VINTR: 'C' - 64, unix.VQUIT: '\\' - 64, unix.VERASE: 0x7f, unix.VKILL: 'U' - 64, unix.VEOF: 'D' - 64,
		unix.VMIN: 1, unix.VSTART: 'Q' - 64, unix.VSTOP: 'S' - 64, unix.VSUSP: 'Z' - 64, unix.VREPRINT: 'R' - 64,
		unix.VDISCARD: 'O' - 64, unix.VWERASE: 'W' - 64, unix.VLNEXT: 'V' - 64,
	},
}

// Terminal is a pair of ends, and the inode of the slave. It is the
// kernel.Terminal of the session that it controls.
type Terminal struct {
	meta
	index  int
	root   vfs.Path    // of the devpts that it was made through, if known
	closed atomic.Bool // the master has gone

	masterQueue, slaveQueue vfs.Queue

	mu           sync.Mutex
	line         line
	in           []byte // written by the master, not yet in line
	masterPaused bool   // TCOOFF on the master
	window       unix.Winsize
	locked       bool // TIOCSPTLCK: the slave cannot be opened
	exclusive    [2]bool
	slaves       int    // open descriptions of the slave
	left         bool   // the last of them has been closed, and none opened since
	generation   uint64 // counts hangups; older slave files are dead
	session      *kernel.Session
}

// OpenMaster makes a terminal and opens its master end. root is where the
// slave's name is, for TIOCGPTPEER; it may be zero.
func (fs *FileSystem) OpenMaster(ctx vfs.Context, flags int, root vfs.Path) (vfs.File, error) {
	t, err := fs.newTerminal(ctx, root)
	if err != nil {
		return nil, err
	}
	m := &master{end{t: t}}
	m.flags.Store(int64(flags))
	return m, nil
}

func (fs *FileSystem) newTerminal(ctx vfs.Context, root vfs.Path) (*Terminal, error) {
	c := ctx.Creds()
	t := &Terminal{root: root, locked: true}
	t.meta = meta{fs: fs, mode: unix.S_IFCHR | fs.opts.Mode, uid: c.FSUID, gid: c.FSGID, times: ctx.Now()}
	if fs.opts.UID != nil {
		t.uid = *fs.opts.UID
	}
	if fs.opts.GID != nil {
		t.gid = *fs.opts.GID
	}
	t.line.raise = t.signalForeground
	t.line.setTermios(defaults)
	if err := fs.add(t); err != nil {
		return nil, err
	}
	t.ino = uint64(t.index) + 3
	t.rdev = unix.Mkdev(uint32(slaveMajor+t.index/slaveMinor), uint32(t.index%slaveMinor))
	return t, nil
}

// Index is the N of /dev/pts/N.
func (t *Terminal) Index() int { return t.index }

// Device is the slave's device number, for /proc/PID/stat.
func (t *Terminal) Device() uint64 { return t.rdev }

// unlock ends a change of the terminal and wakes whom it concerns.
func (t *Terminal) unlock() {
	ev := t.line.events
	t.line.events = pending{}
	t.mu.Unlock()
	if ev.master {
		t.masterQueue.Notify(vfs.EventIn | vfs.EventOut | vfs.EventPri)
	}
	if ev.slave {
		t.slaveQueue.Notify(vfs.EventIn | vfs.EventOut)
	}
}

// pump moves input into the line discipline as far as it takes it.
func (t *Terminal) pump() {
	if len(t.in) == 0 {
		return
	}
	n := t.line.receive(t.in)
	if n > 0 {
		t.in = t.in[:copy(t.in, t.in[n:])]
		t.line.events.master = true
	}
	t.line.lookahead(t.in)
}

// openSlave opens the slave end and may make it the caller's controlling
// terminal. pty.c, pty_open; tty_io.c, tty_open.
func (t *Terminal) openSlave(ctx vfs.Context, flags int) (vfs.File, error) {
	t.mu.Lock()
	defer t.unlock()
	if t.closed.Load() || t.locked {
		return nil, unix.EIO
	}
	if t.exclusive[1] && !ctx.Creds().Has(unix.CAP_SYS_ADMIN) {
		return nil, unix.EBUSY
	}
	t.slaves++
	t.left = false
	s := &slave{end{t: t}, t.generation}
	s.flags.Store(int64(flags))
	if flags&unix.O_NOCTTY == 0 && flags&unix.O_ACCMODE != unix.O_WRONLY {
		t.adopt(ctx)
	}
	return s, nil
}

// hangup ends everything that holds the slave open. tty_io.c, __tty_hangup.
func (t *Terminal) hangup() {
	t.generation++
	t.in = nil
	t.line.flushInput()
	t.line.echo.clear()
	t.line.packet = false
	t.line.setTermios(defaults)
	t.exclusive[1] = false
	t.line.events = pending{true, true}
	t.dropSession()
}

// closeMaster is the release of the only description of the master. It may be
// called twice.
func (t *Terminal) closeMaster() {
	t.mu.Lock()
	if t.closed.Swap(true) {
		t.mu.Unlock()
		return
	}
	t.line.out, t.line.packet = nil, false
	t.hangup()
	last := t.slaves == 0
	t.unlock()
	t.slaveQueue.Notify(vfs.EventHup)
	if last {
		t.fs.remove(t)
	}
}

func (t *Terminal) closeSlave() {
	t.mu.Lock()
	t.slaves--
	if t.slaves == 0 {
		t.left = true
		t.line.packet = false
		t.exclusive[1] = false
	}
	last := t.slaves == 0 && t.closed.Load()
	left := t.left
	t.unlock()
	if left {
		t.masterQueue.Notify(vfs.EventHup | vfs.EventIn)
	}
	if last {
		t.fs.remove(t)
	}
}
