package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// streams are what a process's descriptors 0 to 2 are connected with. A process
// has pipes, as under any engine (a socket could not be opened by /dev/stdout),
// or a terminal; the bytes go between those and the host's connections.
type streams struct {
	conns  [3]net.Conn // nil: /dev/null. With a terminal the first goes both ways.
	theirs [3]*os.File // the process's ends, until it is forked
	ours   [3]*os.File

	pumps  sync.WaitGroup // of output
	mu     sync.Mutex
	bytes  [3]uint64 // taken from the process
	final  [3]uint64 // what it had printed when it ended
	master *os.File
}

// half is a connection whose directions end one by one.
type half interface {
	CloseRead() error
	CloseWrite() error
}

func (s *server) openStreams(names *rpc.Streams, terminal bool) (_ *streams, err error) {
	t := &streams{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	ids := [3][]byte{names.GetStdin(), names.GetStdout(), names.GetStderr()}
	for fd, b := range ids {
		id, there, err := rpc.ParseStreamID(b)
		if err != nil {
			return nil, err
		}
		if there {
			if t.conns[fd], err = s.openStream(id); err != nil {
				return nil, err
			}
		}
		if !there || terminal {
			if t.theirs[fd], err = os.OpenFile("/dev/null", os.O_RDWR, 0); err != nil {
				return nil, err
			}
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if t.theirs[fd], t.ours[fd] = r, w; fd != 0 {
			t.theirs[fd], t.ours[fd] = w, r
		}
	}
	return t, nil
}

func (s *server) openStream(id rpc.StreamID) (net.Conn, error) {
	stream, err := s.dial(rpc.StreamsPort)
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write(id[:]); err != nil {
		stream.Close()
		return nil, err
	}
	return stream, nil
}

// forked lets go of what the process has now.
func (t *streams) forked() {
	for i, f := range t.theirs {
		if f != nil {
			f.Close()
			t.theirs[i] = nil
		}
	}
}

func (t *streams) close() {
	t.forked()
	for _, f := range append(t.ours[:], t.master) {
		if f != nil {
			f.Close()
		}
	}
	for _, c := range t.conns {
		if c != nil {
			c.Close()
		}
	}
}

// begin carries bytes from here on; master is the terminal's, or nil.
func (t *streams) begin(master *os.File) {
	t.mu.Lock()
	t.master = master
	t.mu.Unlock()
	if master != nil {
		if conn := t.conns[0]; conn != nil {
			go func() { _, _ = io.Copy(master, conn) }() // ends with the connection, or the terminal
			t.pumps.Go(func() { t.output(1, master, conn) })
		}
		return
	}
	if conn, w := t.conns[0], t.ours[0]; conn != nil {
		go func() {
			_, _ = io.Copy(w, conn) // ends with what the host sends, or when nobody reads
			w.Close()
			conn.Close()
		}()
	}
	for fd := 1; fd <= 2; fd++ {
		if conn, r := t.conns[fd], t.ours[fd]; conn != nil {
			t.pumps.Go(func() {
				t.output(fd, r, conn)
				r.Close() // a writer that goes on gets SIGPIPE, as the host's reader has it
			})
		}
	}
}

// output carries what a process prints, and counts it as it is taken.
func (t *streams) output(fd int, from *os.File, to net.Conn) {
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 64<<10)
	for {
		var n int
		var failed error
		err := raw.Read(func(from uintptr) bool {
			t.mu.Lock()
			defer t.mu.Unlock()
			for {
				n, failed = unix.Read(int(from), buf)
				if !errors.Is(failed, unix.EINTR) {
					break
				}
			}
			t.bytes[fd] += uint64(max(n, 0))
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err != nil || failed != nil || n <= 0 { // EIO: the last slave of a terminal is closed
			break
		}
		if _, err := to.Write(buf[:n]); err != nil {
			break
		}
	}
	_ = to.(half).CloseWrite()
	// The host closes when it has taken all; before that a close could cost some.
	go func() {
		_, _ = io.Copy(io.Discard, to)
		to.Close()
	}()
}

// drain waits until all is with the host. Nobody can print any more.
func (t *streams) drain() {
	t.pumps.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = t.bytes
}

// count adds what lies in pipes to what has been taken: all that a process has
// printed up to now, though others of its container may go on to print.
func (t *streams) count() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = t.bytes
	for fd := 1; fd <= 2; fd++ {
		from := t.ours[fd]
		if t.master != nil && fd == 1 {
			from = t.master
		}
		if from == nil {
			continue
		}
		if raw, err := from.SyscallConn(); err == nil {
			_ = raw.Control(func(f uintptr) {
				if n, err := unix.IoctlGetInt(int(f), unix.TIOCINQ); err == nil {
					t.final[fd] += uint64(n)
				}
			})
		}
	}
}

// sent is how many bytes a process had printed by a descriptor when it ended.
func (t *streams) sent(fd int) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.final[fd]
}

func (t *streams) terminal() *os.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.master
}
