package net

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Attributes of a TUN link, below IFLA_INFO_DATA (include/uapi/linux/if_link.h).
const (
	tunNumQueues         = 8
	tunNumDisabledQueues = 9
)

// queuesInUse is how many queues of the TAP somebody has open. The kernel tells
// for those made with multi_queue, which TUNSETIFF lets anybody join: two
// machines would have half of the frames each.
func queuesInUse(index int) (int, error) {
	dump, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return 0, fmt.Errorf("list the host's links: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return 0, fmt.Errorf("list the host's links: %w", err)
	}
	for _, m := range messages {
		// struct ifinfomsg has the index at 4.
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg || int(binary.NativeEndian.Uint32(m.Data[4:])) != index {
			continue
		}
		data := attribute(attribute(m.Data[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO), unix.IFLA_INFO_DATA)
		return number(attribute(data, tunNumQueues)) + number(attribute(data, tunNumDisabledQueues)), nil
	}
	return 0, nil
}

// attribute is the value of the first of kind in b, or nil.
func attribute(b []byte, kind uint16) []byte {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return b[unix.SizeofRtAttr:n]
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

func number(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b))
}
