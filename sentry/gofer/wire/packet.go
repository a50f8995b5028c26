package wire

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// controlSize holds the one descriptor that a packet may bring; where more come
// the kernel drops them and says MSG_CTRUNC.
var controlSize = unix.CmsgSpace(4)

// CheckSocket refuses a descriptor that does not keep packets apart.
func CheckSocket(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("gofer: descriptor %d: %w", fd, err)
	}
	if kind != unix.SOCK_SEQPACKET {
		return fmt.Errorf("gofer: descriptor %d is no SOCK_SEQPACKET socket", fd)
	}
	return nil
}

// Send sends b and, unless it is negative, the descriptor pass, which stays the
// caller's.
func Send(fd int, b []byte, pass int) error {
	var oob []byte
	if pass >= 0 {
		oob = unix.UnixRights(pass)
	}
	for {
		_, err := unix.SendmsgN(fd, b, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// Receive takes a packet into b, and its descriptor or -1, also if the process
// has no room for it (EMFILE). io.EOF says that the other end has gone. flags
// are recvmsg's.
func Receive(fd int, b []byte, flags int) (n, pass int, err error) {
	oob := make([]byte, controlSize)
	var oobn, got int
	for {
		n, oobn, got, _, err = unix.Recvmsg(fd, b, oob, flags|unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		if err == unix.ECONNRESET {
			err = io.EOF
		}
		return 0, -1, err
	}
	if pass, err = descriptor(oob[:oobn]); err != nil {
		return 0, -1, err
	}
	if n == 0 && pass < 0 {
		return 0, -1, io.EOF
	}
	if got&unix.MSG_TRUNC != 0 || got&unix.MSG_CTRUNC != 0 && pass >= 0 {
		if pass >= 0 {
			unix.Close(pass)
		}
		return 0, -1, fmt.Errorf("gofer: packet of more than %d bytes or one descriptor", len(b))
	}
	return n, pass, nil
}

// descriptor is what the control message oob brings, or -1.
func descriptor(oob []byte) (int, error) {
	if len(oob) == 0 {
		return -1, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return -1, errors.New("gofer: packet with a malformed control message")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return -1, errors.New("gofer: packet without exactly one descriptor in its control message")
	}
	return fds[0], nil
}
