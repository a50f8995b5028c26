// Package terminal is where a guest's console goes on the host: this process's
// terminal, a new pseudo-terminal, or a file. On a terminal, bytes go to the
// guest as they are typed, but for Ctrl-A and what follows it, which is ours.
package terminal

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Terminal is the host's end of a console.
type Terminal struct {
	In    io.Reader // nil: nobody types
	Out   io.Writer
	Name  string // of a pseudo-terminal, for the person who opens it
	size  int    // descriptor that knows the size, or -1
	undo  func() error
	close []io.Closer
}

// Stdio is this process's terminal, or whatever stands in its place. Ctrl-A x
// calls quit.
func Stdio(quit func()) (*Terminal, error) {
	t := &Terminal{In: os.Stdin, Out: os.Stdout, size: -1}
	old, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil { // a pipe, a file
		return t, nil
	}
	raw := makeRaw(*old)
	if err := unix.IoctlSetTermios(0, unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("terminal: make standard input raw: %w", err)
	}
	t.undo = func() error {
		return os.NewSyscallError("restore the terminal", unix.IoctlSetTermios(0, unix.TCSETS, old))
	}
	t.In = &escape{from: os.Stdin, quit: quit, tell: os.Stderr}
	t.size = 0
	return t, nil
}

// makeRaw is cfmakeraw(3).
func makeRaw(t unix.Termios) unix.Termios {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return t
}

// PTY is a new pseudo-terminal. Both ends stay open, so that who looks at it may
// come and go.
func PTY() (*Terminal, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("terminal: new pseudo-terminal: %w", err)
	}
	slave, name, err := other(master)
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("terminal: other end of %s: %w", master.Name(), err)
	}
	return &Terminal{In: master, Out: master, Name: name, size: int(slave.Fd()), close: []io.Closer{master, slave}}, nil
}

func other(master *os.File) (*os.File, string, error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, "", err
	}
	n, unlock := 0, 0
	err = raw.Control(func(fd uintptr) {
		unlock = int(fd)
	})
	if err == nil {
		err = unix.IoctlSetPointerInt(unlock, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		n, err = unix.IoctlGetInt(unlock, unix.TIOCGPTN)
	}
	if err != nil {
		return nil, "", err
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, "", err
	}
	old, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err == nil {
		raw := makeRaw(*old)
		err = unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, &raw)
	}
	if err != nil {
		slave.Close()
	}
	return slave, name, err
}

// File is output to the file at path, which is appended to, and no input.
func File(path string) (*Terminal, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return &Terminal{Out: f, size: -1, close: []io.Closer{f}}, nil
}

// Size is the terminal's, in characters; false if it has none.
func (t *Terminal) Size() (columns, rows uint16, ok bool) {
	if t.size < 0 {
		return 0, 0, false
	}
	w, err := unix.IoctlGetWinsize(t.size, unix.TIOCGWINSZ)
	if err != nil || w.Col == 0 || w.Row == 0 {
		return 0, 0, false
	}
	return w.Col, w.Row, true
}

// Close gives the terminal back as it was.
func (t *Terminal) Close() error {
	var errs []error
	if t.undo != nil {
		errs = append(errs, t.undo())
		t.undo = nil
	}
	for _, c := range t.close {
		errs = append(errs, c.Close())
	}
	t.close = nil
	return errors.Join(errs...)
}
