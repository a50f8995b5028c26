package network

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Capture is a look at the frames that pass an interface, both ways. Those that a
// sandbox sends leave unfinished where the interface lets them: a checksum is not there yet, or
// many segments are one frame.
type Capture struct {
	Interface string
	fd        int
	bytes     int // of a frame that are kept
}

// captureBacklog is what the kernel keeps until it is read.
const captureBacklog = 16 << 20 // bytes

// OpenCapture looks at the interface of that name in the calling thread's network namespace, or at
// the first that is up and carries Ethernet where name is "". At most length bytes of a frame are kept.
func OpenCapture(name string, length int) (*Capture, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("capture: list the interfaces: %w", err)
	}
	var there []string
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 {
			continue
		}
		there = append(there, a.Name)
		if name != a.Name && (name != "" || a.Flags&net.FlagUp == 0) {
			continue
		}
		fd, err := captureSocket(a.Index)
		if err != nil {
			return nil, fmt.Errorf("capture: interface %s: %w", a.Name, err)
		}
		return &Capture{Interface: a.Name, fd: fd, bytes: length}, nil
	}
	if name == "" {
		return nil, errors.New("capture: the container has no interface but loopback, which is its sandbox's own")
	}
	return nil, fmt.Errorf("capture: the container has no interface %q; it has %s", name, strings.Join(append(there, "loopback, which is its sandbox's own"), ", "))
}

func captureSocket(index int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("packet socket", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBacklog)
	err = os.NewSyscallError("SO_TIMESTAMPNS", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: index}))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Close ends it.
func (c *Capture) Close() error { return unix.Close(c.fd) }

// Counts are of frames.
type Counts struct{ Captured, Dropped int }

// A file of pcap's (draft-ietf-opsawg-pcap, "libpcap file format").
const (
	pcapMagic    = 0xa1b23c4d // times in nanoseconds
	pcapEthernet = 1          // LINKTYPE_ETHERNET
)

// Write writes what passes as a pcap file, until most frames have (0: no end), until one of stops,
// descriptors, is readable, or until the interface is gone. Dropped frames are those that came
// faster than they were written.
func (c *Capture) Write(to io.Writer, most int, stops ...int) (n Counts, err error) {
	defer func() {
		if s, e := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); e == nil {
			n.Dropped = int(s.Drops)
		}
	}()
	w := bufio.NewWriterSize(to, 256<<10)
	head := binary.LittleEndian.AppendUint32(nil, pcapMagic)
	head = append(head, 2, 0, 4, 0) // version 2.4
	head = append(head, make([]byte, 8)...)
	head = binary.LittleEndian.AppendUint32(head, uint32(c.bytes))
	head = binary.LittleEndian.AppendUint32(head, pcapEthernet)
	if _, err := w.Write(head); err != nil {
		return n, err
	}
	b, oob := make([]byte, c.bytes), make([]byte, 128)
	for most == 0 || n.Captured < most {
		size, oobn, _, _, err := unix.Recvmsg(c.fd, b, oob, unix.MSG_TRUNC)
		switch {
		case err == unix.EAGAIN:
			if err := w.Flush(); err != nil {
				return n, err
			}
			if over, err := c.wait(stops); over || err != nil {
				return n, err
			}
		case err == unix.EINTR:
		case err == unix.ENETDOWN || err == unix.ENXIO:
			return n, w.Flush()
		case err != nil:
			return n, os.NewSyscallError("recvmsg", err)
		default:
			n.Captured++
			if err := writeFrame(w, frameTime(oob[:oobn]), b[:min(size, len(b))], size); err != nil {
				return n, err
			}
		}
	}
	return n, w.Flush()
}

// wait returns when there is a frame, or true when it is over.
func (c *Capture) wait(stops []int) (over bool, err error) {
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
	for _, stop := range stops {
		fds = append(fds, unix.PollFd{Fd: int32(stop), Events: unix.POLLIN})
	}
	if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
		return true, os.NewSyscallError("poll", err)
	}
	return slices.ContainsFunc(fds[1:], func(f unix.PollFd) bool { return f.Revents != 0 }), nil
}

// frameTime is when the kernel saw it.
func frameTime(oob []byte) time.Time {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

func writeFrame(w io.Writer, at time.Time, b []byte, size int) error {
	head := binary.LittleEndian.AppendUint32(nil, uint32(at.Unix()))
	head = binary.LittleEndian.AppendUint32(head, uint32(at.Nanosecond()))
	head = binary.LittleEndian.AppendUint32(head, uint32(len(b)))
	head = binary.LittleEndian.AppendUint32(head, uint32(size))
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}
