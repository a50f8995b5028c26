package rpc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Halved is a connection whose directions end one by one.
type Halved interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Join carries bytes between a connection and a stream that Forward is of, until each has said
// all, of which the other is told behind what was said. The reset of either, the end of a
// stream whose other end has not said that that is all, and ctx's end tear both, and are the
// error. It closes both; a connection that is torn is reset.
//
// On the stream, either way, there are pieces: a length of four bytes, big endian, and so many
// bytes. One of no length is the last. A stream's end says no such thing: a guest's kernel
// does not know how its host closed it, and a program that takes half a question for all of it
// is not told otherwise later.
func Join(ctx context.Context, conn Halved, stream net.Conn) error {
	ctx, tear := context.WithCancelCause(ctx)
	defer tear(nil)
	torn := make(chan struct{})
	whole := context.AfterFunc(ctx, func() {
		defer close(torn)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // RST, and not FIN
		}
		conn.Close()
		stream.Close()
	})
	j := &joint{conn: conn, stream: stream, pieces: bufio.NewReaderSize(stream, piece)}
	var ways, watches sync.WaitGroup
	for _, w := range []struct{ carry, watch func() error }{{j.say, j.watchConn}, {j.hear, j.watchStream}} {
		ways.Go(func() {
			if err := w.carry(); err != nil {
				tear(err)
				return
			}
			watches.Go(func() {
				if err := w.watch(); err != nil {
					tear(err)
				}
			})
		})
	}
	ways.Wait()
	var err error
	if !whole() {
		<-torn
		err = context.Cause(ctx)
	}
	conn.Close()
	stream.Close()
	watches.Wait()
	return err
}

const (
	pieceHead = 4        // bytes
	piece     = 32 << 10 // bytes, with its head, as we make them
)

// joint is what Join has.
type joint struct {
	conn   Halved
	stream net.Conn
	pieces *bufio.Reader // of the stream

	said, heard atomic.Bool // all that the connection says, or is told; before it is passed on
}

// say carries what the connection says.
func (j *joint) say() error {
	for buf := make([]byte, piece); ; {
		n, err := j.conn.Read(buf[pieceHead:])
		if err != nil && err != io.EOF {
			return err
		}
		if n > 0 {
			binary.BigEndian.PutUint32(buf, uint32(n))
			if _, err := j.stream.Write(buf[:pieceHead+n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			j.said.Store(true)
			_, err = j.stream.Write(make([]byte, pieceHead))
			return err
		}
	}
}

// hear carries what the stream says.
func (j *joint) hear() error {
	for {
		head, err := j.pieces.Peek(pieceHead)
		if err != nil {
			return broken(err)
		}
		left := int64(binary.BigEndian.Uint32(head))
		_, _ = j.pieces.Discard(pieceHead) // they are there
		if left == 0 {
			j.heard.Store(true)
			return j.conn.CloseWrite()
		}
		for left > 0 {
			if _, err := j.pieces.Peek(1); err != nil {
				return broken(err)
			}
			b, _ := j.pieces.Peek(int(min(left, int64(j.pieces.Buffered()))))
			if _, err := j.conn.Write(b); err != nil {
				return err
			}
			left -= int64(len(b))
			_, _ = j.pieces.Discard(len(b))
		}
	}
}

func broken(err error) error {
	if err == io.EOF {
		return unix.ECONNRESET
	}
	return err
}

// watchConn waits until a connection that has said all is gone, or is closed here.
func (j *joint) watchConn() error {
	raw, err := j.conn.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Read(hungUp); err != nil || j.heard.Load() {
		return nil
	}
	return unix.ECONNRESET
}

// watchStream is the same for a stream, of which nothing comes any more.
func (j *joint) watchStream() error {
	_, err := j.pieces.Peek(1)
	if j.said.Load() {
		return nil
	}
	if err == nil {
		return unix.EPROTO
	}
	return broken(err)
}

// hungUp tells of a socket that neither sends nor receives any more, or had an error.
func hungUp(fd uintptr) bool {
	for {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, 0); !errors.Is(err, unix.EINTR) {
			return err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		}
	}
}
