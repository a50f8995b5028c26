package net

import (
	"bytes"
	"encoding/binary"
	hostnet "net"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// cable is a pair of interfaces: far, with the host's address, and near, which a guest is to have.
const cable = "link add near type veth peer name far|addr add 10.9.8.1/24 dev far|link set far up|link set near up"

// packetSocket is one on the interface, as the runtime opens it.
func packetSocket(t *testing.T, name string, headers int) int {
	t.Helper()
	i, err := hostnet.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, headers)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: i.Index}) // ETH_P_ALL, in network order
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func openPacket(t *testing.T) *Device {
	t.Helper()
	inNamespace(t, strings.Split(cable, "|")...)
	d, err := New(Options{Name: "near", Socket: packetSocket(t, "near", 1), MAC: guestMAC})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestPacket speaks with the host's kernel over a cable.
func TestPacket(t *testing.T) {
	for _, features := range []uint64{all, all &^ FeatureMergeable} {
		g := newGuest(t, openPacket(t), features)
		host := g.meet(1)
		for seq := range byte(20) {
			g.ping(1, 0, host, seq)
			if seq%5 == 0 {
				g.Stop()
				g.Restart()
			}
		}
	}
}

// TestPacketOffload: checksums are left to the other side, both ways; and a frame like
// that is not for a driver that did not say it would finish it.
func TestPacketOffload(t *testing.T) {
	for _, features := range []uint64{all, all &^ FeatureGuestCsum} {
		device := openPacket(t)
		socket, err := hostnet.ListenUDP("udp4", &hostnet.UDPAddr{IP: hostIP, Port: 4000})
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		g := newGuest(t, device, features)
		host := g.meet(1)
		datagram := []byte{0x13, 0x88, 0x0f, 0xa0, 0, 13, 0, 0, 'h', 'e', 'l', 'l', 'o'} // 5000 to 4000
		pseudo := append(append(bytes.Clone(guestIP), hostIP...), 0, 17, 0, 13)
		binary.BigEndian.PutUint16(datagram[6:], ^sum(pseudo))
		g.send(0, checksum(34, 6), ip(host, 17, datagram))
		b := make([]byte, 100)
		n, from, err := socket.ReadFromUDP(b)
		if err != nil || string(b[:n]) != "hello" {
			t.Fatalf("the host received %q, %v", b[:n], err)
		}
		if features&FeatureGuestCsum == 0 {
			for range 64 { // room, also for what the host says on its own
				g.Send(0, nil, []int{2000})
			}
			dropped := device.Stats().ReceiveDropped
			for device.Stats().ReceiveDropped == dropped {
				if _, err := socket.WriteToUDP([]byte("unfinished"), from); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		go func() { // until the socket is closed
			for {
				n, from, err := socket.ReadFromUDP(b)
				if err != nil {
					return
				}
				socket.WriteToUDP(append([]byte("you say "), b[:n]...), from)
			}
		}()
		h, frame := g.ask(1, 0, checksum(34, 6), ip(host, 17, datagram), protocol(17))
		if string(frame[42:]) != "you say hello" || h[0]&needsCsum == 0 {
			t.Errorf("the guest received %q with flags %d, want a checksum left to it", frame[42:], h[0])
		}
	}
}

// TestPacketGone takes the interface down, and up, and away.
func TestPacketGone(t *testing.T) {
	device := openPacket(t)
	g := newGuest(t, device, all)
	host := g.meet(1)
	for _, state := range []string{"down", "up"} {
		if out, err := exec.Command("ip", "link", "set", "near", state).CombinedOutput(); err != nil {
			t.Fatalf("ip link set near %s: %s(%v)", state, out, err)
		}
	}
	g.ping(1, 0, g.meet(1), 7) // the host has forgotten us with its carrier
	if out, err := exec.Command("ip", "link", "del", "near").CombinedOutput(); err != nil {
		t.Fatalf("ip link del near: %s(%v)", out, err)
	}
	g.Send(1, [][]byte{make([]byte, headerSize), ip(host, 1, echo(1))}, nil)
	g.WaitConfig(1)
	if up := g.Config(6, 1); up[0] != 0 {
		t.Error("the guest's link is still up")
	}
	g.Stop()
}

func TestPacketRefuses(t *testing.T) {
	inNamespace(t, strings.Split(cable, "|")...)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for fd, want := range map[int]string{
		pair[0]:                    "is no packet socket: ",
		packetSocket(t, "near", 0): "network near: a packet socket without PACKET_VNET_HDR",
	} {
		if _, err := New(Options{Name: "near", Socket: fd}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		unix.Close(fd)
	}
}

// TestUnplugged: a driver starts one, and nothing comes of what it sends.
func TestUnplugged(t *testing.T) {
	d, err := New(Options{Name: "net0", Unplugged: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	g := newGuest(t, d, all)
	r := g.Send(1, [][]byte{make([]byte, headerSize), make([]byte, 60)}, nil)
	g.Stop()
	g.Restart()
	g.Stop()
	if r.Done() {
		t.Error("a frame went somewhere")
	}
}
