package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is what a Unix socket's address takes, less "_" and a port.
const maxPath = 107 - len("_4294967295") // bytes

// listen is at path, where a socket that nobody listens at any more gives way.
func listen(path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("vsock: listen at %s: the path has %d bytes, and %d at most", path, len(path), maxPath)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) && isAbandoned(path) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("vsock: listen: %w", err)
		}
		l, err = net.Listen("unix", path)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("vsock: listen at %s: another machine listens there, or it is no socket; give another path", path)
	}
	if err != nil {
		return nil, fmt.Errorf("vsock: %w", err)
	}
	return l, nil
}

func isAbandoned(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED) && isSocket(path)
}

func isSocket(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == os.ModeSocket
}

// dialer connects to what serves a port of the host.
func dialer(path string) func(context.Context, uint32) (net.Conn, error) {
	if path == "" {
		return func(context.Context, uint32) (net.Conn, error) {
			return nil, errors.New("the device has no path")
		}
	}
	return func(ctx context.Context, port uint32) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		var d net.Dialer
		for {
			c, err := d.DialContext(ctx, "unix", path+"_"+strconv.FormatUint(uint64(port), 10))
			if !errors.Is(err, unix.EAGAIN) {
				return c, err
			}
			// The listener has a full backlog, of which the kernel tells
			// nobody when it shrinks (net/unix/af_unix.c, unix_stream_connect).
			if wait(ctx, backlogPause) != nil {
				return nil, err
			}
		}
	}
}

const backlogPause = 5 * time.Millisecond

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// accept is a goroutine: it lets programs of the host in.
func (d *Device) accept() {
	for {
		c, err := d.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // descriptors have run out, for one
			d.log.Warn("vsock: a program of the host could not connect", "err", err)
			if wait(d.ctx, time.Second) != nil {
				return
			}
			continue
		}
		d.sockets.Go(func() { d.greet(c) })
	}
}

// greet hears which port a program of the host wants. One that is refused has
// its socket closed, and finds out by the end of what it reads.
func (d *Device) greet(c net.Conn) {
	stop := context.AfterFunc(d.ctx, func() { c.Close() })
	defer stop()
	line, err := readLine(c)
	var port uint32
	if err == nil {
		port, err = parseConnect(line)
	}
	if err == nil {
		err = d.connect(port, newSocket(c))
	}
	if err != nil {
		d.refused.Add(1)
		d.log.Debug("vsock: refused a program of the host", "err", err)
		c.Close()
	}
}

// maxLine is more than "CONNECT 4294967295\n" has.
const maxLine = 32 // bytes

// readLine reads up to a newline, byte by byte: what follows is the guest's.
func readLine(c net.Conn) (string, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < maxLine; line = append(line, b[0]) {
		if _, err := c.Read(b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
	}
	return "", fmt.Errorf("%q… is not CONNECT and a port", line)
}

func parseConnect(line string) (uint32, error) {
	word, number, _ := strings.Cut(strings.TrimSuffix(line, "\r"), " ")
	port, err := strconv.ParseUint(number, 10, 32)
	if !strings.EqualFold(word, "CONNECT") || err != nil {
		return 0, fmt.Errorf("%q is not CONNECT and a port", line)
	}
	return uint32(port), nil
}

// greeting is the answer to CONNECT once the guest has said yes.
func greeting(port uint32) []byte { return fmt.Appendf(nil, "OK %d\n", port) }
