package network

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
)

// docker is where docker's own name server answers the containers of a network that a
// user has made. It listens at that address in the container's network namespace, on
// other ports, to which the namespace's translation of addresses leads (libnetwork, resolver).
var docker = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 11}), 53)

// NameServer opens sockets to docker's name server, where the calling thread's network
// namespace has it; nil where it has none. Nothing but that server's answers come out
// of them, whatever their holder connects them to.
func NameServer() (_ *agent.NameServer, err error) {
	if there, err := listens(docker.Addr()); err != nil || !there {
		return nil, err
	}
	s := &agent.NameServer{Address: docker, Packets: -1}
	defer func() {
		if err != nil {
			Close(&agent.BootConfig{NameServer: s})
		}
	}()
	if s.Packets, err = openTo(unix.SOCK_DGRAM, docker); err != nil {
		return nil, fmt.Errorf("network: name server: %w", err)
	}
	if err := unix.Connect(s.Packets, &unix.SockaddrInet4{Addr: docker.Addr().As4(), Port: int(docker.Port())}); err != nil {
		return nil, fmt.Errorf("network: name server %v: connect: %w", docker, err)
	}
	for range agent.MostStreams {
		fd, err := openTo(unix.SOCK_STREAM, docker)
		if err != nil {
			return nil, fmt.Errorf("network: name server: %w", err)
		}
		s.Streams = append(s.Streams, fd)
	}
	return s, nil
}

// openTo is a socket that hears of one peer alone and speaks on loopback alone, for good:
// the filter is locked, and another device asks for CAP_NET_RAW (socket(7)).
func openTo(typ int, peer netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.BindToDevice(fd, "lo"); err != nil {
		return -1, os.NewSyscallError("SO_BINDTODEVICE", err)
	}
	filter := only(peer)
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return -1, os.NewSyscallError("SO_ATTACH_FILTER", err)
	}
	return fd, os.NewSyscallError("SO_LOCK_FILTER", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
}

// only is the filter that lets nothing in but what a peer sends. A socket's filter sees
// the transport header first, and the network's at SKF_NET_OFF
// (Documentation/networking/filter.rst); a translated address has become the peer's by then.
func only(peer netip.AddrPort) []unix.SockFilter {
	const (
		network = 0xfff00000 // SKF_NET_OFF
		word    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		half    = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
		differs = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K // Jf of them on
		end     = unix.BPF_RET | unix.BPF_K
	)
	ip := peer.Addr().As4()
	return []unix.SockFilter{
		{Code: word, K: network + 12}, // the source of IPv4
		{Code: differs, K: binary.BigEndian.Uint32(ip[:]), Jf: 3},
		{Code: half, K: 0}, // the source port of TCP and UDP
		{Code: differs, K: uint32(peer.Port()), Jf: 1},
		{Code: end, K: 1 << 18}, // all of it
		{Code: end, K: 0},
	}
}

// listens says whether a datagram socket of the calling thread's network namespace is
// bound to an address (proc(5), /proc/net/udp).
func listens(at netip.Addr) (bool, error) {
	f, err := os.Open("/proc/thread-self/net/udp")
	if err != nil {
		return false, fmt.Errorf("network: %w", err)
	}
	defer f.Close()
	ip := at.As4()
	local := fmt.Sprintf("%02X%02X%02X%02X:", ip[3], ip[2], ip[1], ip[0])
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && strings.HasPrefix(fields[1], local) {
			return true, nil
		}
	}
	return false, nil
}
