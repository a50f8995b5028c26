package vsock

import (
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is the host's end of a connection. It waits in Go's poller, without a
// buffer: a thousand idle connections hold none.
type socket struct {
	net.Conn
	raw syscall.RawConn // nil where there is no descriptor, as in tests
}

func newSocket(c net.Conn) *socket {
	s := &socket{Conn: c}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

// chunks are shared by all connections.
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

func freeChunk(b *[chunk]byte) {
	if b != nil {
		chunks.Put(b)
	}
}

// read waits for bytes and takes up to limit of them, into a chunk that the
// caller frees. The end is io.EOF.
func (s *socket) read(limit int) (buf *[chunk]byte, n int, err error) {
	if s.raw == nil {
		buf = chunks.Get().(*[chunk]byte)
		n, err = s.Conn.Read(buf[:limit])
		return buf, n, err
	}
	waitErr := s.raw.Read(func(fd uintptr) bool {
		buf = chunks.Get().(*[chunk]byte)
		n, err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), buf[:limit]) })
		if err != unix.EAGAIN {
			return true
		}
		freeChunk(buf)
		buf = nil
		return false
	})
	switch {
	case waitErr != nil:
		return buf, 0, waitErr
	case err != nil:
		return buf, 0, err
	case n == 0:
		return buf, 0, io.EOF
	}
	return buf, n, nil
}

// trySend gives the socket up to n bytes of segments and says how many it took,
// which may be none. What is wrong with it the next Write will find.
func (s *socket) trySend(segments [][]byte, n int) (taken int) {
	if s.raw == nil {
		return 0
	}
	iovs := make([][]byte, 0, 4)
	for _, segment := range segments {
		if n == 0 || len(iovs) == maxSegments {
			break
		}
		segment = segment[:min(n, len(segment))]
		iovs = append(iovs, segment)
		n -= len(segment)
	}
	err := s.raw.Write(func(fd uintptr) bool {
		taken, _ = ignoringEINTR(func() (int, error) { return unix.Writev(int(fd), iovs) })
		return true
	})
	if err != nil {
		return 0
	}
	return max(taken, 0)
}

const maxSegments = 64

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// closeRead and closeWrite close one direction. A stranger's connection without
// directions is closed by its end.
func (s *socket) closeRead() {
	if c, ok := s.Conn.(interface{ CloseRead() error }); ok {
		c.CloseRead()
	}
}

func (s *socket) closeWrite() {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}

// hungUp tells, after the end of what it reads, whether the other end is gone
// altogether and reads no more either.
func (s *socket) hungUp() (gone bool) {
	if s.raw == nil {
		return true
	}
	s.raw.Control(func(fd uintptr) { gone = hungUp(fd) })
	return gone
}

// awaitHangUp waits until it is, or until the socket is closed here.
func (s *socket) awaitHangUp() {
	if s.raw != nil {
		s.raw.Read(hungUp)
	}
}

func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}
