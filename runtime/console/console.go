// Package console is the host's side of terminals: pty pairs, the socket over
// which an engine wants the master (--console-socket), and a person's own
// terminal in raw mode in front of a container's.
package console

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// Pty is a pair. The slave goes to the sandbox, which has a line discipline of
// its own behind it; this one is raw from the start, so that nothing typed early
// is echoed twice.
type Pty struct {
	Master, Slave *os.File
}

// New makes a pair of the given size, if that is not zero.
func New(rows, columns uint16) (*Pty, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	p := &Pty{Master: master}
	if err := p.open(rows, columns); err != nil {
		p.Close()
		return nil, fmt.Errorf("console: set up a pty: %w", err)
	}
	return p, nil
}

func (p *Pty) open(rows, columns uint16) error {
	fd := int(p.Master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	// TIOCGPTPEER needs no path, so it works whatever is mounted on /dev/pts.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	slave := int(peer)
	if errno != 0 {
		slave, err = unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	p.Slave = os.NewFile(uintptr(slave), "/dev/pts/"+strconv.Itoa(n))
	if _, err := raw(slave); err != nil {
		return err
	}
	if rows == 0 && columns == 0 {
		return nil
	}
	return Resize(p.Master, rows, columns)
}

// Close closes both ends.
func (p *Pty) Close() {
	p.Master.Close()
	if p.Slave != nil {
		p.Slave.Close()
	}
}

// Resize sets a terminal's size.
func Resize(f *os.File, rows, columns uint16) error {
	return unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
}

// Size is a terminal's size.
func Size(f *os.File) (rows, columns uint16, err error) {
	w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, err
	}
	return w.Row, w.Col, nil
}

// IsTerminal says whether f is one.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// raw is cfmakeraw(3), and gives the settings from before.
func raw(fd int) (*unix.Termios, error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t := *old
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return old, unix.IoctlSetTermios(fd, unix.TCSETS, &t)
}

// Send gives the master to whoever listens at the socket path, as runc does
// (docs/terminals.md there): one message, the name as its data.
func (p *Pty) Send(path string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix([]byte(p.Slave.Name()), unix.UnixRights(int(p.Master.Fd())), nil); err != nil {
		return fmt.Errorf("console socket %s: %w", path, err)
	}
	return nil
}

// Proxy connects a person's terminal to a master until Finish.
type Proxy struct {
	master   *os.File
	out      io.Writer
	tty      *os.File
	old      *unix.Termios
	cancel   context.CancelFunc
	copied   chan struct{} // closed when the master is at its end
	resizing chan struct{} // closed when the follower of SIGWINCH has ended
}

// Attach puts tty into raw mode, passes its size on now and when it changes, and
// copies in both directions. in and out are usually tty, too.
func Attach(tty, in *os.File, out io.Writer, master *os.File) (*Proxy, error) {
	old, err := raw(int(tty.Fd()))
	if err != nil {
		return nil, fmt.Errorf("console: raw mode: %w", err)
	}
	// Non-blocking, so that closing the master ends a read of it.
	if err := unix.SetNonblock(int(master.Fd()), true); err == nil {
		if fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			master = os.NewFile(uintptr(fd), master.Name())
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{master: master, out: out, tty: tty, old: old, cancel: cancel, copied: make(chan struct{}), resizing: make(chan struct{})}
	go p.followSize(ctx)
	go func() {
		io.Copy(out, master) // ends with EIO when the last slave is closed
		close(p.copied)
	}()
	go io.Copy(master, in) // ends with the process: nothing wakes a read of a terminal
	return p, nil
}

func (p *Proxy) followSize(ctx context.Context) {
	defer close(p.resizing)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	defer signal.Stop(changed)
	for {
		if rows, columns, err := Size(p.tty); err == nil {
			Resize(p.master, rows, columns)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Finish waits until everything written to the slave is out, which needs all
// slaves closed, and restores the terminal.
func (p *Proxy) Finish() {
	<-p.copied
	p.Restore()
}

// Restore gives the terminal back without waiting.
func (p *Proxy) Restore() {
	p.cancel()
	<-p.resizing
	unix.IoctlSetTermios(int(p.tty.Fd()), unix.TCSETS, p.old)
}
