package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/sys/unix"
)

// A frame is a length (four bytes, big endian) and that many bytes of JSON, a
// message. Descriptors travel as SCM_RIGHTS with the first byte of their frame,
// and the message says how many there are.
const (
	maxFrame  = 4 << 20 // bytes
	maxFiles  = 253     // net/core/scm.c, SCM_MAX_FD
	frameHead = 4       // bytes
)

// message is a call (Method is set) or the answer to one (it is not).
type message struct {
	ID     uint64          `json:"id"`
	Method string          `json:"method,omitempty"`
	Files  int             `json:"files,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// Error is a refusal by the other side.
type Error struct {
	Message string     `json:"message"`
	Errno   unix.Errno `json:"errno,omitempty"`
}

func (e *Error) Error() string { return e.Message }

var errTooLong = errors.New("the message is too long")

// mostWords bounds what of a sandbox's words reaches a person.
const mostWords = 16 << 10 // bytes

// Words is what a sandbox said, fit for a terminal: it may speak with its container's mouth.
func Words(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, text[:min(len(text), mostWords)])
}

// Unwrap makes errors.Is(err, unix.ESRCH) work across the wire.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

func wireError(err error) *Error {
	e := &Error{Message: err.Error()}
	if !errors.As(err, &e.Errno) {
		e.Errno = 0
	}
	return e
}

// wire is one end of a connection. Reads belong to one goroutine.
type wire struct {
	conn  *net.UnixConn
	files bool // whether descriptors are accepted

	mu sync.Mutex // serializes frames
}

func (w *wire) send(m *message, files []*os.File) error {
	m.Files = len(files)
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("agent: encode %s: %w", m.Method, err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("agent: %d bytes, at most %d allowed: %w", len(body), maxFrame, errTooLong)
	}
	if len(files) > maxFiles {
		return fmt.Errorf("agent: %d descriptors in a message, at most %d allowed", len(files), maxFiles)
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)

	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		if n, _, err = w.conn.WriteMsgUnix(frame, unix.UnixRights(fds...), nil); err != nil {
			return err
		}
	}
	_, err = w.conn.Write(frame[n:])
	return err
}

// receive reads one frame. The caller owns the files.
func (w *wire) receive() (m *message, files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	head := make([]byte, frameHead)
	if files, err = w.readHead(head); err != nil {
		return nil, files, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxFrame {
		return nil, files, fmt.Errorf("agent: frame of %d bytes, at most %d allowed", size, maxFrame)
	}
	// The buffer grows with what arrives, not with what the head announces.
	body, err := io.ReadAll(io.LimitReader(w.conn, int64(size)))
	if err != nil {
		return nil, files, err
	}
	if len(body) < int(size) {
		return nil, files, io.ErrUnexpectedEOF
	}
	m, err = parseMessage(body)
	if err != nil {
		return nil, files, err
	}
	if m.Files != len(files) {
		return nil, files, fmt.Errorf("agent: message announces %d descriptors and brings %d", m.Files, len(files))
	}
	return m, files, nil
}

// readHead fills head and collects the descriptors that came with it. A receiver
// that wants none gives the kernel no room for them, which then drops them.
func (w *wire) readHead(head []byte) (files []*os.File, err error) {
	var oob []byte
	if w.files {
		oob = make([]byte, unix.CmsgSpace(maxFiles*4))
	}
	for got := 0; got < len(head); {
		n, oobn, flags, _, err := w.conn.ReadMsgUnix(head[got:], oob)
		if oobn > 0 {
			more, perr := parseRights(oob[:oobn])
			files = append(files, more...)
			if perr != nil {
				return files, perr
			}
		}
		switch {
		case err != nil:
			return files, err
		case w.files && flags&unix.MSG_CTRUNC != 0:
			return files, errors.New("agent: descriptors were lost: too many for a message or for this process")
		case n == 0 && got == 0:
			return files, io.EOF
		case n == 0:
			return files, io.ErrUnexpectedEOF
		}
		got += n
	}
	return files, nil
}

func parseRights(oob []byte) (files []*os.File, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("agent: parse control message: %w", err)
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return files, fmt.Errorf("agent: parse descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func parseMessage(b []byte) (*message, error) {
	m := new(message)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("agent: parse message: %w", err)
	}
	if m.Files < 0 || m.Files > maxFiles {
		return nil, fmt.Errorf("agent: message announces %d descriptors", m.Files)
	}
	return m, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
