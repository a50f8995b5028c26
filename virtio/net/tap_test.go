package net

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	hostnet "net"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/virtio/virtiotest"
)

// inNamespace runs the rest of the test in a network namespace of its own,
// after commands of ip(8). The thread dies with the test, and the namespace with it.
func inNamespace(t *testing.T, commands ...string) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("a network namespace: %v: run as root", err)
	}
	for _, command := range commands {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
			t.Skip("no ip: apt-get install iproute2")
		} else if err != nil {
			t.Skipf("ip %s: %s(%v): load the tun module, as in modprobe tun", command, out, err)
		}
	}
}

var (
	guestMAC = []byte{2, 0, 0, 0, 0, 1}
	guestIP  = []byte{10, 9, 8, 2}
	hostIP   = []byte{10, 9, 8, 1}
)

const tapUp = "addr add 10.9.8.1/24 dev tap0|link set tap0 up"

func tapCommands(more string) []string {
	return strings.Split("tuntap add tap0 mode tap "+more+"|"+tapUp, "|")
}

func openTestTap(t *testing.T, o Options) *Device {
	t.Helper()
	o.Tap, o.MAC = "tap0", guestMAC
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func sum(b []byte) uint16 {
	var n uint32
	for i := 0; i+1 < len(b); i += 2 {
		n += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		n += uint32(b[len(b)-1]) << 8
	}
	for n>>16 != 0 {
		n = n&0xffff + n>>16
	}
	return ^uint16(n)
}

// arp asks for the host's address and tells the guest's.
func arp() []byte {
	b := append(bytes.Repeat([]byte{0xff}, 6), guestMAC...)
	b = append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, guestMAC...), guestIP...)
	return append(append(b, 0, 0, 0, 0, 0, 0), hostIP...)
}

// ip is a frame with an IPv4 packet from guest to host.
func ip(to []byte, protocol byte, payload []byte) []byte {
	b := append(append(append([]byte(nil), to...), guestMAC...), 8, 0)
	h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0}
	h = append(append(h, guestIP...), hostIP...)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return append(append(b, h...), payload...)
}

func echo(seq byte) []byte {
	b := append([]byte{8, 0, 0, 0, 0, 7, 0, seq}, "are you there?"...)
	binary.BigEndian.PutUint16(b[2:], sum(b))
	return b
}

// guest is a driver with buffers on all its receive queues.
type guest struct {
	*virtiotest.Driver
	t       *testing.T
	waiting map[int]*virtiotest.Request // by queue
}

func newGuest(t *testing.T, d *Device, features uint64) *guest {
	return &guest{virtiotest.Start(t, d, features), t, map[int]*virtiotest.Request{}}
}

// send passes a frame on through a pair.
func (g *guest) send(pair int, h header, frame []byte) {
	g.Do(2*pair+1, append(h[:], frame...), 0)
}

// ask sends a frame through a pair, again and again as any network needs, until
// there is an answer that want likes, from any of the pairs; the host also says things
// of its own. It is what comes after the header h.
func (g *guest) ask(pairs, through int, h header, frame []byte, want func(frame []byte) bool) (answerHeader, answer []byte) {
	for i := 0; ; i++ {
		if i%10000 == 0 { // a TAP that just came up drops what its host sends
			g.send(through, h, frame)
		}
		for pair := range pairs {
			q := 2 * pair
			if g.waiting[q] == nil {
				g.waiting[q] = g.Send(q, nil, []int{70000})
			}
			if !g.waiting[q].Done() {
				continue
			}
			b := g.waiting[q].Wait()
			g.waiting[q] = nil
			if len(b) > headerSize && want(b[headerSize:]) {
				return b[:headerSize], b[headerSize:]
			}
		}
		runtime.Gosched()
	}
}

func ofType(kind ...byte) func([]byte) bool {
	return func(frame []byte) bool { return bytes.HasPrefix(frame[12:], kind) }
}

func protocol(p byte) func([]byte) bool {
	return func(frame []byte) bool { return ofType(8, 0)(frame) && frame[23] == p }
}

// meet is the host's address, which also learns the guest's.
func (g *guest) meet(pairs int) []byte {
	_, answer := g.ask(pairs, 0, header{}, arp(), ofType(8, 6))
	return answer[6:12]
}

func (g *guest) ping(pairs, through int, host []byte, seq byte) {
	g.t.Helper()
	request := ip(host, 1, echo(seq))
	reply := func(frame []byte) bool { return protocol(1)(frame) && frame[34] == 0 && frame[41] == seq }
	_, answer := g.ask(pairs, through, header{}, request, reply)
	if got := answer[34:]; !bytes.Equal(got[4:], echo(seq)[4:]) || sum(got) != 0 {
		g.t.Errorf("ping %d by pair %d: answer % x", seq, through, got)
	}
}

// TestPing speaks with the host's own kernel.
func TestPing(t *testing.T) {
	for _, features := range []uint64{0, all, all &^ FeatureMergeable} {
		t.Run(fmt.Sprintf("%#x", features), func(t *testing.T) {
			inNamespace(t, tapCommands("")...)
			g := newGuest(t, openTestTap(t, Options{}), features)
			host := g.meet(1)
			for seq := range byte(20) {
				g.ping(1, 0, host, seq)
				if seq%5 == 0 {
					g.Stop()
					g.Restart()
				}
			}
		})
	}
}

// TestChecksumOffload sends datagrams whose checksum the other side is to fill in.
func TestChecksumOffload(t *testing.T) {
	inNamespace(t, tapCommands("")...)
	device := openTestTap(t, Options{})
	socket, err := hostnet.ListenUDP("udp4", &hostnet.UDPAddr{IP: hostIP, Port: 4000})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	g := newGuest(t, device, all)
	host := g.meet(1)

	datagram := []byte{0x13, 0x88, 0x0f, 0xa0, 0, 13, 0, 0, 'h', 'e', 'l', 'l', 'o'} // 5000 to 4000
	pseudo := append(append(bytes.Clone(guestIP), hostIP...), 0, 17, 0, 13)
	binary.BigEndian.PutUint16(datagram[6:], ^sum(pseudo))
	go func() { // until the socket is closed
		b := make([]byte, 100)
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

// TestTapQueues uses the second pair, not, and again.
func TestTapQueues(t *testing.T) {
	inNamespace(t, tapCommands("multi_queue")...)
	g := newGuest(t, openTestTap(t, Options{Pairs: 2}), all)
	host := g.meet(1)
	for i, pairs := range []byte{2, 1, 2, 2, 1} {
		if got := g.Do(4, []byte{4, 0, pairs, 0}, 1); !bytes.Equal(got, []byte{ackOK}) {
			t.Fatalf("%d pairs: answer %v", pairs, got)
		}
		for through := range int(pairs) {
			g.ping(2, through, host, byte(i*2+through))
		}
	}
	g.Do(4, []byte{4, 0, 2, 0}, 1)
	g.Stop()
	g.Restart()
	g.ping(2, 1, host, 100)
}

// TestTapInherited is given a descriptor instead of a name.
func TestTapInherited(t *testing.T) {
	inNamespace(t, tapCommands("")...)
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	plain := &tap{name: "tap0"}
	if err := plain.bind(fd, unix.IFF_TAP|unix.IFF_NO_PI); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("network: descriptor %d: open it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR", fd)
	if _, err := New(Options{FDs: []int{fd}}); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a TAP without headers: %v, want %q", err, want)
	}
	unix.Close(fd)
	if fd, err = unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := plain.bind(fd, tapFlags); err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{FDs: []int{fd}, MAC: guestMAC})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	g := newGuest(t, d, all)
	g.ping(1, 0, g.meet(1), 1)
	g.Stop()
}

// TestTapGone takes the TAP down, and up, and away from a running device: the
// guest's link goes down.
func TestTapGone(t *testing.T) {
	inNamespace(t, tapCommands("")...)
	device := openTestTap(t, Options{})
	g := newGuest(t, device, all)
	host := g.meet(1)
	for _, state := range []string{"down", "up"} {
		if out, err := exec.Command("ip", "link", "set", "tap0", state).CombinedOutput(); err != nil {
			t.Fatalf("ip link set tap0 %s: %s(%v)", state, out, err)
		}
		g.send(0, header{}, ip(host, 1, echo(0)))
		if n := device.Stats().SendDropped; n != 1 {
			t.Errorf("after a frame to a TAP that is %s, %d frames were dropped, want 1", state, n)
		}
	}
	for range 64 { // room for what the host says on its own: it is the reader who sees the end
		g.Send(0, nil, []int{2000})
	}
	if out, err := exec.Command("ip", "link", "del", "tap0").CombinedOutput(); err != nil {
		t.Fatalf("ip link del tap0: %s(%v)", out, err)
	}
	g.WaitConfig(1)
	if up := g.Config(6, 1); up[0] != 0 {
		t.Error("the guest's link is still up")
	}
	g.Send(1, [][]byte{make([]byte, headerSize), ip(host, 1, echo(1))}, nil)
	g.Stop()
}

func TestTapRefuses(t *testing.T) {
	inNamespace(t, append(tapCommands(""), "link add dummy0 type veth peer name dummy1", "tuntap add tap1 mode tap multi_queue", "tuntap add tun0 mode tun")...)
	openTestTap(t, Options{})
	for _, row := range []struct {
		o    Options
		want string
	}{
		{Options{Tap: "tap0"}, "network tap0: in use by another machine; end that one, or give another TAP"},
		{Options{Tap: "tap2"}, "network tap2: no such interface; make one with: ip tuntap add tap2 mode tap && ip link set tap2 up"},
		{Options{Tap: "dummy0"}, "network dummy0: not a TAP; make one with: ip tuntap add NAME mode tap"},
		{Options{Tap: "tun0"}, "network tun0: not a TAP; make one with: ip tuntap add NAME mode tap"},
		{Options{Tap: "tap0", Pairs: 2}, "network tap0: not a TAP of several queues, and 2 are asked for; make one with: ip tuntap add tap0 mode tap multi_queue"},
	} {
		if _, err := New(row.o); err == nil || err.Error() != row.want {
			t.Errorf("New(%+v) says\n  %v, want\n  %s", row.o, err, row.want)
		}
	}
	// One queue of a TAP that has room for more is fine.
	d, err := New(Options{Tap: "tap1"})
	if err != nil {
		t.Fatal(err)
	}
	want := "network tap1: in use by another machine; end that one, or give another TAP"
	for _, pairs := range []int{1, 2} {
		if _, err := New(Options{Tap: "tap1", Pairs: pairs}); err == nil || err.Error() != want {
			t.Errorf("a second machine on tap1 with %d queues: %v, want %s", pairs, err, want)
		}
	}
	if mtu := d.config(); binary.LittleEndian.Uint16(mtu[10:]) != 1500 || d.Close() != nil {
		t.Errorf("tap1: configuration % x", mtu)
	}
}
