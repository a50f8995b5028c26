// Package rpc is the agent protocol as it is spoken to a microVM's init. Its
// contract is agent.proto, whose Go is generated and checked in (go generate;
// TestGenerated sees that it is current). What the .proto cannot say stands here:
// ports, versions, how a stream begins and is joined with a connection, and how an errno
// crosses.
//
// Both ends are hostile to each other: a guest speaks with its container's mouth
// once that has broken out, and bounds are what each side keeps by itself.
// ttrpc's own is 4 MiB for a message.
package rpc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

//go:generate go run ./generate

// Version is the protocol's. Host and guest are built together, so that a
// difference is a guest's init of another build: it is refused.
const Version = 6

// Ports of the host that a guest's init connects to.
const (
	CallsPort   = 1024
	StreamsPort = 1025
)

// StreamID names a stream. It is the first that is sent on a connection to
// StreamsPort. Anything in a guest can connect there, and cannot guess one.
type StreamID [16]byte

// NewStreamID is a random one.
func NewStreamID() (id StreamID) {
	rand.Read(id[:]) // which does not fail
	return id
}

// ParseStreamID takes what a Streams message has; ok is false for none.
func ParseStreamID(b []byte) (id StreamID, ok bool, err error) {
	switch len(b) {
	case 0:
		return id, false, nil
	case len(id):
		copy(id[:], b)
		return id, true, nil
	}
	return id, false, fmt.Errorf("rpc: a stream's id of %d bytes, want %d", len(b), len(id))
}

// ReadStreamID is the host's side of a stream's beginning.
func ReadStreamID(r io.Reader) (id StreamID, err error) {
	_, err = io.ReadFull(r, id[:])
	return id, err
}

// Silence keeps ttrpc from logging what the other side does wrong, as often as it
// does, to a standard error that may be a container's.
func Silence() { log.L.Logger.SetOutput(io.Discard) }

// Refuse makes an error of the server's one that crosses with its errno.
func Refuse(err error) error {
	if err == nil {
		return nil
	}
	s := status.New(codes.Unknown, err.Error())
	var errno unix.Errno
	if errors.As(err, &errno) {
		if detailed, derr := s.WithDetails(&Errno{Number: uint32(errno)}); derr == nil {
			s = detailed
		}
	}
	return s.Err()
}

// Refusal is the other side's error, in its words.
type Refusal struct {
	Message string
	Errno   unix.Errno // 0: none
}

func (r *Refusal) Error() string { return r.Message }

// Unwrap makes errors.Is(err, unix.ESRCH) work across the wire.
func (r *Refusal) Unwrap() error {
	if r.Errno == 0 {
		return nil
	}
	return r.Errno
}

// mostErrno is MAX_ERRNO (include/linux/err.h).
const mostErrno = 4095

// mostWords bounds what of the other side's words is passed on.
const mostWords = 4096 // bytes

// Refused makes a Refusal of a call's error where the other side has said no.
// Anything else (a connection that ended, a context) is returned as it is.
func Refused(err error) error {
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) || errors.Is(err, ttrpc.ErrClosed) {
		return err
	}
	st := s.GRPCStatus()
	message := st.Message()
	r := &Refusal{Message: message[:min(len(message), mostWords)]}
	for _, d := range st.Details() {
		if e, ok := d.(*Errno); ok && e.Number > 0 && e.Number <= mostErrno {
			r.Errno = unix.Errno(e.Number)
		}
	}
	return r
}
