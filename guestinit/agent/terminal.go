package agent

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// terminalMaster is the descriptor of a stage's terminal's other end, -1 without one.
var terminalMaster = -1

func (st *stage) master() int { return terminalMaster }

// openTerminal makes a terminal in the container's devpts the process's own:
// descriptors 0 to 2, the session's, and for init /dev/console.
func (st *stage) openTerminal() error {
	if !st.Process.Terminal {
		st.ownStreams()
		return nil
	}
	m, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		m, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("/dev/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	if size := st.Process.ConsoleSize; size != nil {
		w := &unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)}
		if err := unix.IoctlSetWinsize(m, unix.TIOCSWINSZ, w); err != nil {
			return err
		}
	}
	name := path.Join("/dev/pts", fmt.Sprint(n))
	slave, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := unix.Fchown(slave, int(st.Process.User.UID), -1); err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return err
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("make it the session's: %w", err)
	}
	terminalMaster = m
	if st.Join {
		return nil
	}
	f, err := os.OpenFile("/dev/console", os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return nil // a /dev that cannot be written has no console to cover
	}
	f.Close()
	return unix.Mount(name, "/dev/console", "", unix.MS_BIND, "")
}

// ownStreams gives the process's user the standard streams, so that it can open them by
// name (/dev/stdout), as other runtimes do. What cannot be given stays another's.
func (st *stage) ownStreams() {
	for fd := range 3 {
		var s unix.Stat_t
		if err := unix.Fstat(fd, &s); err == nil && s.Mode&unix.S_IFMT != unix.S_IFCHR {
			_ = unix.Fchown(fd, int(st.Process.User.UID), -1)
		}
	}
}
