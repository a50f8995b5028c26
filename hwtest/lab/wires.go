package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// wire is one stream between this process and a port of the machine.
type wire struct {
	name   string
	ours   net.Conn
	theirs *os.File // QEMU's end
	in     io.Reader
	out    io.Writer
}

// wires are the streams of a machine, in the order of their descriptors in QEMU,
// which are 3 and up.
type wires struct {
	all  []*wire
	outs sync.WaitGroup
	err  error
}

// monitor is QEMU's own command line.
type monitor struct{ net.Conn }

// monitorName is the stream that is one.
const monitorName = "monitor"

// addMonitor makes a stream to ask QEMU by.
func (w *wires) addMonitor() monitor {
	w.add(monitorName, nil, nil)
	if w.err != nil {
		return monitor{}
	}
	return monitor{w.all[len(w.all)-1].ours}
}

// ask is what QEMU answers to a command in a moment, if anything.
func (m monitor) ask(command string) string {
	const moment, enough = 3 * time.Second, 64 << 10
	_ = m.SetDeadline(time.Now().Add(moment)) // a Unix socket has one
	if _, err := io.WriteString(m, command+"\ninfo status\n"); err != nil {
		return ""
	}
	var answer bytes.Buffer
	b := make([]byte, 4<<10)
	for answer.Len() < enough {
		n, err := m.Read(b)
		answer.Write(b[:n])
		if err != nil || bytes.Contains(answer.Bytes(), []byte("VM status")) {
			break
		}
	}
	return answer.String()
}

// add makes a stream that carries in to the machine, or what comes from it to out.
func (w *wires) add(name string, in io.Reader, out io.Writer) {
	if w.err != nil {
		return
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		w.err = fmt.Errorf("make the stream %s: %w", name, err)
		return
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), name), os.NewFile(uintptr(pair[1]), name)
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		w.err = fmt.Errorf("make the stream %s: %w", name, err)
		return
	}
	w.all = append(w.all, &wire{name: name, ours: conn, theirs: theirs, in: in, out: out})
}

func (w *wires) theirs() []*os.File {
	var files []*os.File
	for _, wire := range w.all {
		files = append(files, wire.theirs)
	}
	return files
}

// carry begins, once QEMU has its ends.
func (w *wires) carry() {
	for _, wire := range w.all {
		wire.theirs.Close()
		if wire.in == nil && wire.out == nil {
			continue // it is asked by hand
		}
		if wire.in != nil {
			// Ends with its reader or, after close, at the next write.
			go func() {
				io.Copy(wire.ours, wire.in)
				if half, ok := wire.ours.(*net.UnixConn); ok {
					half.CloseWrite()
				}
			}()
			continue
		}
		w.outs.Go(func() {
			if _, err := io.Copy(wire.out, wire.ours); err != nil && !errors.Is(err, net.ErrClosed) {
				// A writer that refuses must not stop the machine.
				io.Copy(io.Discard, wire.ours)
			}
		})
	}
}

// drain waits for the last bytes: QEMU is gone and its ends are closed.
func (w *wires) drain() { w.outs.Wait() }

func (w *wires) close() {
	for _, wire := range w.all {
		wire.ours.Close()
		wire.theirs.Close()
	}
}
