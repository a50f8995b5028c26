// Package socket says what a socket is to the system calls, whatever its family,
// and has what all families share: control messages and the options of
// SOL_SOCKET. A family is a package beside this one.
//
// A Socket never waits. Where it cannot go on it returns unix.EAGAIN; the caller
// sleeps on its Queue and tries again, unless the description or the call says
// not to (MSG_DONTWAIT).
package socket

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Caller is who makes a call; *kernel.Task is one.
type Caller interface {
	vfs.Context
	// PID is the process as it knows itself.
	PID() int32
	FS() *kernel.FSContext
}

// Message is what one sendmsg or recvmsg carries.
type Message struct {
	Data memory.Buffers
	// Name is a sockaddr: where to, or nil; after Receive, where from, or nil.
	Name    []byte
	Control Control
	// Flags are MSG_TRUNC and MSG_EOR after Receive. MSG_CTRUNC is for who
	// encodes Control.
	Flags int
	// Mark says, after Receive, that urgent data follow, which no call reads
	// together with what comes before them.
	Mark bool
}

// Socket is one end of communication. It is the File of its description: Read
// and Write are Receive and Send without anything but data.
type Socket interface {
	vfs.File

	// Kind are the three arguments of socket(2), the type without flags.
	Kind() (family, typ, protocol int)
	// Inode is what fstat(2) tells of.
	Inode() *vfs.AnonInode

	Bind(c Caller, name []byte) error
	Listen(c Caller, backlog int) error
	// Accept takes a connection that waits: EAGAIN, then EventIn. flags are
	// MSG_DONTWAIT if the description does not wait.
	Accept(c Caller, flags int) (Socket, error)
	// Connect returns EAGAIN where the listener is busy (try again after
	// EventOut), or EINPROGRESS: after EventOut, SO_ERROR says how it ended.
	Connect(c Caller, name []byte) error
	Shutdown(c Caller, how int) error

	// Send takes as much of m.Data as it can and returns how many bytes that are;
	// a part only on a stream. It keeps no reference to m.Data. Of m.Control.Rights
	// it takes references of its own. EPIPE brings SIGPIPE if the type is
	// SOCK_STREAM and flags lack MSG_NOSIGNAL.
	Send(c Caller, m *Message, flags int) (int, error)
	// Receive fills m. The caller drops the references in m.Control.Rights.
	// flags are MSG_PEEK, MSG_TRUNC and, always where the description or the call
	// does not wait, MSG_DONTWAIT. MSG_WAITALL is the caller's: it asks again while
	// a stream returned something, until the buffer is full or at a Mark.
	Receive(c Caller, m *Message, flags int) (int, error)

	// Name and Peer are sockaddrs (getsockname, getpeername).
	Name() ([]byte, error)
	Peer() ([]byte, error)

	// GetOption returns at most size bytes; SetOption takes what was given.
	GetOption(c Caller, level, name, size int) ([]byte, error)
	SetOption(c Caller, level, name int, value []byte) error
	// Timeouts are SO_RCVTIMEO and SO_SNDTIMEO, 0 for none.
	Timeouts() (receive, send time.Duration)
}

// Connecting is a socket whose Connect may return EINPROGRESS (or, asked again,
// EALREADY). Who waits for the outcome asks Connected after EventOut, until it is
// not EAGAIN.
type Connecting interface {
	Connected() error
}

// Asked is a socket with options that getsockopt(2) reads a question for.
type Asked interface {
	Asks(level, name int) bool
	Answer(given []byte) ([]byte, error)
}

// NewDescription makes a description of s; flags are O_NONBLOCK or none.
func NewDescription(s Socket, flags int) *vfs.Description {
	name := vfs.AnonName("socket", s.Inode().Ino())
	return vfs.NewAnonymousOn(s.Inode(), s, name, unix.O_RDWR|flags&unix.O_NONBLOCK)
}

// NewInode makes the inode of a new socket.
func NewInode(c vfs.Context) *vfs.AnonInode {
	return vfs.NewAnonInode(c, unix.S_IFSOCK|0o777, nil)
}
