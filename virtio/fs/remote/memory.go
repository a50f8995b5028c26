package remote

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// SendMemory hands the memfd of the guest's memory over, before any request.
func SendMemory(conn *net.UnixConn, fd int) error {
	if fd < 0 {
		return errors.New("fs: the guest's memory is no memfd, which another process could map")
	}
	_, _, err := conn.WriteMsgUnix([]byte{memory}, unix.UnixRights(fd), nil)
	return err
}

const memory = 'M' // the packet that comes with it

// ReceiveMemory waits for SendMemory and maps what it sends, for good. io.EOF says
// that there was none to send.
func ReceiveMemory(conn *net.UnixConn) ([]byte, error) {
	b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	fd, err := descriptor(oob[:oobn])
	if err != nil || b[0] != memory {
		return nil, fmt.Errorf("fs: the first packet brings no memory (%w)", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	// A file that shrinks would end this process with SIGBUS, and the share with it.
	mapped, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("fs: map %d bytes of the guest's memory: %w", st.Size, err)
	}
	return mapped, nil
}

func descriptor(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	if len(messages) != 1 {
		return -1, errors.New("no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors (%w)", len(fds), err)
	}
	return fds[0], nil
}
