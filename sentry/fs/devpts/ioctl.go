package devpts

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// call is one ioctl(2) on an end of a terminal.
type call struct {
	t      *Terminal
	ctx    vfs.Context
	master bool
	flags  int
	arg    uint64
}

func (c *call) get(n int) ([]byte, error) {
	b := make([]byte, n)
	return b, c.copy(c.ctx.Memory().Read, b)
}

func (c *call) put(b []byte) error { return c.copy(c.ctx.Memory().Write, b) }

func (c *call) copy(f func(memory.Addr, []byte) (int, error), b []byte) error {
	if n, err := f(memory.Addr(c.arg), b); err != nil || n < len(b) {
		return unix.EFAULT
	}
	return nil
}

func (c *call) getInt() (int32, error) {
	b, err := c.get(4)
	return int32(binary.LittleEndian.Uint32(b)), err
}

func (c *call) putInt(v int) error {
	return c.put(binary.LittleEndian.AppendUint32(nil, uint32(v)))
}

func (c *call) putBool(b bool) error {
	if b {
		return c.putInt(1)
	}
	return c.putInt(0)
}

// request is one row of what terminals understand.
type request struct {
	change bool // a background job gets SIGTTOU
	on     side
	do     func(*call) error
}

type side uint8

const (
	either side = iota
	masterOnly
)

// requests are served with Terminal.mu held, all but TIOCGPTPEER. Serial lines'
// (TIOCMGET, TIOCGSERIAL, …) and TIOCSLCKTRMIOS are ENOTTY.
var requests = map[uint32]request{
	unix.TCGETS:   {do: func(c *call) error { return c.put(encode(&c.t.line.tio)[:36]) }},
	unix.TCGETS2:  {do: func(c *call) error { return c.put(encode(&c.t.line.tio)) }},
	unix.TCSETS:   {true, either, func(c *call) error { return c.setTermios(36, false) }},
	unix.TCSETSW:  {true, either, func(c *call) error { return c.setTermios(36, false) }},
	unix.TCSETSF:  {true, either, func(c *call) error { return c.setTermios(36, true) }},
	unix.TCSETS2:  {true, either, func(c *call) error { return c.setTermios(44, false) }},
	unix.TCSETSW2: {true, either, func(c *call) error { return c.setTermios(44, false) }},
	unix.TCSETSF2: {true, either, func(c *call) error { return c.setTermios(44, true) }},
	unix.TCGETA:   {do: (*call).getTermio},
	unix.TCSETA:   {true, either, func(c *call) error { return c.setTermio(false) }},
	unix.TCSETAW:  {true, either, func(c *call) error { return c.setTermio(false) }},
	unix.TCSETAF:  {true, either, func(c *call) error { return c.setTermio(true) }},

	unix.TCXONC:    {do: (*call).flow},
	unix.TCFLSH:    {do: (*call).flush},
	unix.TCSBRK:    {true, either, func(*call) error { return nil }}, // output is sent already; a pty knows no break
	unix.TCSBRKP:   {true, either, func(*call) error { return nil }},
	unix.TIOCSBRK:  {true, either, func(*call) error { return nil }},
	unix.TIOCCBRK:  {true, either, func(*call) error { return nil }},
	unix.TIOCINQ:   {do: func(c *call) error { return c.putInt(c.waiting()) }},
	unix.TIOCOUTQ:  {do: func(c *call) error { return c.putInt(0) }}, // pty.c has no chars_in_buffer
	unix.TIOCEXCL:  {do: func(c *call) error { c.t.exclusive[c.side()] = true; return nil }},
	unix.TIOCNXCL:  {do: func(c *call) error { c.t.exclusive[c.side()] = false; return nil }},
	unix.TIOCGEXCL: {do: func(c *call) error { return c.putBool(c.t.exclusive[c.side()]) }},
	unix.TIOCGETD:  {do: func(c *call) error { return c.putInt(0) }}, // N_TTY
	unix.TIOCSETD:  {true, either, (*call).discipline},
	unix.TIOCGDEV:  {do: func(c *call) error { return c.putInt(int(c.t.rdev)) }},
	// Faked input is how a program gets out of its terminal's session; Linux has
	// it off too (CONFIG_LEGACY_TIOCSTI, since 6.2).
	unix.TIOCSTI:      {do: func(*call) error { return unix.EIO }},
	unix.TIOCGWINSZ:   {do: func(c *call) error { return c.put(encodeWindow(c.t.window)) }},
	unix.TIOCSWINSZ:   {do: (*call).resize},
	unix.TIOCVHANGUP:  {do: (*call).vhangup},
	unix.TIOCGSOFTCAR: {do: func(c *call) error { return c.putBool(c.t.line.tio.Cflag&unix.CLOCAL != 0) }},
	unix.TIOCSSOFTCAR: {do: (*call).softCarrier},
	unix.TIOCSCTTY:    {do: func(c *call) error { return c.t.take(c.ctx, c.flags&unix.O_ACCMODE != unix.O_WRONLY, c.arg == 1) }},
	unix.TIOCNOTTY:    {do: (*call).leave},
	unix.TIOCGPGRP:    {do: (*call).getForeground},
	unix.TIOCSPGRP:    {do: (*call).setForeground},
	unix.TIOCGSID:     {do: (*call).session},
	unix.TIOCGPTN:     {on: masterOnly, do: func(c *call) error { return c.putInt(c.t.index) }},
	unix.TIOCSPTLCK:   {on: masterOnly, do: (*call).lockSlave},
	unix.TIOCGPTLCK:   {on: masterOnly, do: func(c *call) error { return c.putBool(c.t.locked) }},
	unix.TIOCPKT:      {on: masterOnly, do: (*call).packetMode},
	unix.TIOCGPKT:     {on: masterOnly, do: func(c *call) error { return c.putBool(c.t.line.packet) }},
	unix.TIOCSIG:      {on: masterOnly, do: (*call).signal},
}

func (m *master) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	c := call{m.t, ctx, true, int(m.flags.Load()), arg}
	if cmd == unix.TIOCGPTPEER {
		return c.openPeer()
	}
	m.t.mu.Lock()
	defer m.t.unlock()
	return 0, c.serve(cmd)
}

func (s *slave) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	s.t.mu.Lock()
	defer s.t.unlock()
	if s.hungUp() {
		if cmd == unix.TIOCSPGRP {
			return 0, unix.ENOTTY
		}
		return 0, unix.EIO
	}
	c := call{s.t, ctx, false, int(s.flags.Load()), arg}
	return 0, c.serve(cmd)
}

func (c *call) serve(cmd uint32) error {
	r, ok := requests[cmd]
	if !ok || r.on == masterOnly && !c.master {
		return unix.ENOTTY
	}
	if r.change {
		if err := c.t.checkChange(c.ctx, unix.SIGTTOU); err != nil {
			return err
		}
	}
	return r.do(c)
}

func (c *call) side() int {
	if c.master {
		return 0
	}
	return 1
}

// waiting is FIONREAD. A master's line discipline holds one buffer.
func (c *call) waiting() int {
	if c.master {
		return min(len(c.t.line.out), bufSize-1)
	}
	return c.t.line.available()
}

// flow is TCXONC. tty_ioctl.c, n_tty_ioctl_helper.
func (c *call) flow() error {
	t, l := c.t, &c.t.line
	if !c.master {
		if err := t.checkChange(c.ctx, unix.SIGTTOU); err != nil {
			return err
		}
	}
	switch c.arg {
	case unix.TCOOFF, unix.TCOON:
		off := c.arg == unix.TCOOFF
		if c.master {
			t.masterPaused = off
			l.events.master = true
		} else if off && !l.tcoStopped {
			l.tcoStopped = true
			l.stop()
		} else if !off && l.tcoStopped {
			l.tcoStopped = false
			l.start()
		}
	case unix.TCIOFF:
		c.sendChar(unix.VSTOP)
	case unix.TCION:
		c.sendChar(unix.VSTART)
	default:
		return unix.EINVAL
	}
	return nil
}

// sendChar shows the other side a flow control character, past a STOP of its
// own. tty_io.c, tty_send_xchar.
func (c *call) sendChar(which int) {
	l := &c.t.line
	ch := l.tio.Cc[which]
	switch {
	case c.master:
		c.t.input([]byte{defaults.Cc[which]})
	case ch != disabled:
		stopped := l.stopped
		l.start()
		if l.room() > 0 {
			l.emit(ch)
		}
		if stopped {
			l.stop()
		}
	}
}

// flush is TCFLSH.
func (c *call) flush() error {
	t, l := c.t, &c.t.line
	if !c.master {
		if err := t.checkChange(c.ctx, unix.SIGTTOU); err != nil {
			return err
		}
	}
	in := c.arg == unix.TCIFLUSH || c.arg == unix.TCIOFLUSH
	out := c.arg == unix.TCOFLUSH || c.arg == unix.TCIOFLUSH
	switch {
	case !in && !out:
		return unix.EINVAL
	case c.master:
		if in {
			l.out = nil
			l.events.slave = true
		}
		if out {
			t.in, l.ahead = nil, 0
		}
		return nil
	}
	if in {
		t.in = nil
		l.flushInput()
		l.events.master = true
	}
	if out {
		l.flushOutput()
	}
	return nil
}

func (c *call) discipline() error {
	n, err := c.getInt()
	if err == nil && n != 0 {
		err = unix.EINVAL
	}
	return err
}

// resize is TIOCSWINSZ. pty.c, pty_resize.
func (c *call) resize() error {
	b, err := c.get(8)
	if err != nil {
		return err
	}
	c.t.setWindow(decodeWindow(b))
	return nil
}

func (t *Terminal) setWindow(w unix.Winsize) {
	if w != t.window {
		t.window = w
		t.signalForeground(unix.SIGWINCH)
	}
}

func (c *call) vhangup() error {
	if !c.ctx.Creds().Has(unix.CAP_SYS_ADMIN) {
		return unix.EPERM
	}
	if !c.master {
		c.t.hangup()
	}
	return nil
}

func (c *call) softCarrier() error {
	on, err := c.getInt()
	if err != nil {
		return err
	}
	tio := c.t.line.tio
	tio.Cflag &^= unix.CLOCAL
	if on != 0 {
		tio.Cflag |= unix.CLOCAL
	}
	c.t.line.setTermios(tio)
	return nil
}

func (c *call) leave() error {
	if c.master {
		return unix.ENOTTY
	}
	return c.t.leave(c.ctx)
}

func (c *call) getForeground() error {
	if _, ok := c.t.controls(c.ctx); !ok && !c.master {
		return unix.ENOTTY
	}
	return c.putInt(int(c.t.foreground(c.ctx)))
}

func (c *call) setForeground() error {
	id, err := c.getInt()
	if err != nil {
		return err
	}
	return c.t.setForeground(c.ctx, id)
}

func (c *call) session() error {
	if _, ok := c.t.controls(c.ctx); !ok && !c.master {
		return unix.ENOTTY
	}
	s := c.t.owner()
	if s == nil {
		return unix.ENOTTY
	}
	return c.putInt(int(number(c.ctx, s.ID())))
}

func (c *call) lockSlave() error {
	on, err := c.getInt()
	if err == nil {
		c.t.locked = on != 0
	}
	return err
}

func (c *call) packetMode() error {
	on, err := c.getInt()
	if err != nil {
		return err
	}
	l := &c.t.line
	if on != 0 && !l.packet {
		l.status = 0
	}
	l.packet = on != 0
	return nil
}

func (c *call) signal() error {
	sig := unix.Signal(c.arg)
	if sig != unix.SIGINT && sig != unix.SIGQUIT && sig != unix.SIGTSTP {
		return unix.EINVAL
	}
	c.t.signalForeground(sig)
	return nil
}

// openPeer is TIOCGPTPEER: a descriptor of the slave, whatever the caller's
// mounts show. pty.c, ptm_open_peer.
func (c *call) openPeer() (uintptr, error) {
	task, ok := c.ctx.(*kernel.Task)
	if !ok || !c.t.root.Ok() {
		return 0, unix.EIO
	}
	at, err := vfs.Resolve(vfs.SentryContext(), vfs.Start{Root: c.t.root, At: c.t.root}, c.t.name(), 0)
	if err != nil {
		return 0, unix.EIO
	}
	flags := int(c.arg)
	f, err := c.t.openSlave(c.ctx, flags)
	if err != nil {
		return 0, err
	}
	d := vfs.NewDescription(f, at, flags)
	defer d.Unref()
	fd, err := task.FDs().Install(d, 0, flags&unix.O_CLOEXEC != 0, int(task.Limit(unix.RLIMIT_NOFILE)))
	return uintptr(fd), err
}
