package netlink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

type caller struct{ vfs.Context }

func (caller) PID() int32            { return 7 }
func (caller) FS() *kernel.FSContext { return nil }

// request is a dump of typ for family.
func request(typ uint16, family byte) []byte {
	return header{typ, unix.NLM_F_REQUEST | unix.NLM_F_DUMP, 3, 0}.message([]byte{family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
}

// ask sends b on a new socket and returns all answers.
func ask(t *testing.T, b []byte) (out []byte) {
	c := caller{vfs.SentryContext()}
	s, err := New(c, inet.New(true, nil), unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send(c, &socket.Message{Data: memory.Buffers{b}}, 0); err != nil {
		t.Fatal(err)
	}
	for {
		buf := make([]byte, 8192)
		n, err := s.Receive(c, &socket.Message{Data: memory.Buffers{buf}}, 0)
		if err == unix.EAGAIN {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, buf[:n]...)
	}
}

// loopbacks are the attributes of lo in a dump, by number, and its fixed part.
func loopbacks(t *testing.T, b []byte, fixed int) (attrs map[uint16]string, info string) {
	ms, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if m.Header.Type == unix.NLMSG_DONE || m.Data[4] != inet.Loopback || m.Data[0] == unix.AF_INET6 {
			continue
		}
		as, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			t.Fatal(err)
		}
		attrs = map[uint16]string{}
		for _, a := range as {
			attrs[a.Attr.Type] = string(a.Value)
		}
		return attrs, string(m.Data[:fixed])
	}
	t.Fatal("no loopback device")
	return nil, ""
}

func TestLikeHost(t *testing.T) {
	for _, row := range []struct {
		name  string
		typ   uint16
		fixed int
		vary  []uint16
	}{
		{"links", unix.RTM_GETLINK, unix.SizeofIfInfomsg, []uint16{unix.IFLA_STATS, unix.IFLA_STATS64}},
		{"addresses", unix.RTM_GETADDR, unix.SizeofIfAddrmsg, []uint16{unix.IFA_CACHEINFO}},
	} {
		b, err := syscall.NetlinkRIB(int(row.typ), unix.AF_UNSPEC)
		if err != nil {
			t.Skipf("the host's netlink: %v: needs a kernel with CONFIG_NETLINK and a sandbox that allows it", err)
		}
		want, wantInfo := loopbacks(t, b, row.fixed)
		got, gotInfo := loopbacks(t, ask(t, request(row.typ, unix.AF_UNSPEC)), row.fixed)
		if gotInfo != wantInfo {
			t.Errorf("%s: got %x, host %x", row.name, gotInfo, wantInfo)
		}
		for typ, v := range got {
			if bytes.Contains([]byte(fmt.Sprint(row.vary)), []byte(fmt.Sprint(typ))) {
				if len(v) > len(want[typ]) {
					t.Errorf("%s: attribute %d has %d bytes, host %d", row.name, typ, len(v), len(want[typ]))
				}
				continue
			}
			if v != want[typ] {
				t.Errorf("%s: attribute %d is %q, host %q", row.name, typ, v, want[typ])
			}
		}
	}
}

func TestRequests(t *testing.T) {
	one := func(typ, flags uint16, body []byte) []byte {
		return header{typ, unix.NLM_F_REQUEST | flags, 9, 0}.message(body)
	}
	info := make([]byte, unix.SizeofIfInfomsg)
	second := append([]byte{}, info...)
	second[4] = 2
	for _, row := range []struct {
		name string
		in   []byte
		want []uint16
		err  unix.Errno
	}{
		{"links", request(unix.RTM_GETLINK, 0), []uint16{unix.RTM_NEWLINK, unix.NLMSG_DONE}, 0},
		{"IPv6 addresses", request(unix.RTM_GETADDR, unix.AF_INET6), []uint16{unix.RTM_NEWADDR, unix.NLMSG_DONE}, 0},
		{"routes", request(unix.RTM_GETROUTE, unix.AF_INET6), []uint16{unix.RTM_NEWROUTE, unix.NLMSG_DONE}, 0},
		{"neighbours", request(unix.RTM_GETNEIGH, 0), []uint16{unix.NLMSG_DONE}, 0},
		{"by name", one(unix.RTM_GETLINK, 0, append(info, attribute(unix.IFLA_IFNAME, []byte("lo\x00"))...)), []uint16{unix.RTM_NEWLINK}, 0},
		{"another name", one(unix.RTM_GETLINK, 0, append(info, attribute(unix.IFLA_IFNAME, []byte("eth0\x00"))...)), []uint16{unix.NLMSG_ERROR}, unix.ENODEV},
		{"another index", one(unix.RTM_GETLINK, 0, second), []uint16{unix.NLMSG_ERROR}, unix.ENODEV},
		{"change", one(unix.RTM_DELADDR, unix.NLM_F_ACK, info), []uint16{unix.NLMSG_ERROR}, unix.EOPNOTSUPP},
		{"two", append(request(unix.RTM_GETLINK, 0), request(unix.RTM_GETADDR, 0)...),
			[]uint16{unix.RTM_NEWLINK, unix.NLMSG_DONE, unix.RTM_NEWADDR, unix.RTM_NEWADDR, unix.NLMSG_DONE}, 0},
		{"half a header", []byte{1, 2, 3}, nil, 0},
		{"too long", []byte{255, 0, 0, 0, 18, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 0},
	} {
		ms, err := syscall.ParseNetlinkMessage(ask(t, row.in))
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		var got []uint16
		for _, m := range ms {
			got = append(got, m.Header.Type)
			if m.Header.Type == unix.NLMSG_ERROR {
				if e := unix.Errno(-int32(uint32(m.Data[0]) | uint32(m.Data[1])<<8 | uint32(m.Data[2])<<16 | uint32(m.Data[3])<<24)); e != row.err {
					t.Errorf("%s: %v, want %v", row.name, e, row.err)
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(row.want) {
			t.Errorf("%s: got messages %v, want %v", row.name, got, row.want)
		}
	}
}

// TestNeverReads sends what a program may send that never reads: no more waits than
// SO_RCVBUF holds and one datagram, and all of it can be read afterwards.
func TestNeverReads(t *testing.T) {
	get := header{unix.RTM_GETLINK, unix.NLM_F_REQUEST | unix.NLM_F_ACK, 5, 0}.message(make([]byte, 1000))
	for name, b := range map[string][]byte{"dumps": request(unix.RTM_GETLINK, 0), "errors": get} {
		c := caller{vfs.SentryContext()}
		s, err := New(c, inet.New(true, nil), unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		for range 5000 {
			if _, err := s.Send(c, &socket.Message{Data: memory.Buffers{b}}, 0); err != nil {
				t.Fatal(err)
			}
		}
		s.Deliver(make([]byte, 32))
		waits := 0
		for _, d := range s.in {
			waits += len(d.data)
		}
		if most := s.opts.Receive() + 2048; waits > most || waits+len(s.in)*overhead != s.charged {
			t.Errorf("%s: %d bytes wait, %d charged, most is %d", name, waits, s.charged, most)
		}
		var got []error
		buf := make([]byte, 8192)
		for len(got) < 2 {
			if _, err := s.Receive(c, &socket.Message{Data: memory.Buffers{buf}}, 0); err != nil {
				got = append(got, err)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint([]error{unix.ENOBUFS, unix.EAGAIN}) || s.charged != 0 {
			t.Errorf("%s: recv said %v; %d bytes still charged", name, got, s.charged)
		}
	}
}

// TestParts reads a dump that is larger than one part: each object is told
// once, and no more of them wait than the reader has room for.
func TestParts(t *testing.T) {
	const count = 3000
	c := caller{vfs.SentryContext()}
	s, err := New(c, inet.New(true, nil), unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	objects := make([][]byte, count)
	for i := range objects {
		objects[i] = append(u32(uint32(i)), make([]byte, 100)...)
	}
	s.mu.Lock()
	if err := s.startLocked(header{seq: 4}, func() (uint16, [][]byte) { return 20, objects }); err != 0 {
		t.Fatal(err)
	}
	if err := s.startLocked(header{}, nil); err != unix.EBUSY {
		t.Errorf("a second dump: %v, want EBUSY", err)
	}
	s.mu.Unlock()
	next, parts := 0, 0
	for done := false; !done; parts++ {
		if s.charged > s.opts.Receive()/2+partMost+overhead {
			t.Fatal("the dump does not wait for who reads")
		}
		buf := make([]byte, 8192)
		n, err := s.Receive(c, &socket.Message{Data: memory.Buffers{buf}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		ms, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			if done = m.Header.Type == unix.NLMSG_DONE; !done {
				if n := binary.LittleEndian.Uint32(m.Data); int(n) != next {
					t.Fatalf("object %d, want %d", n, next)
				}
				next++
			}
		}
	}
	if next != count || parts < 3000*116/8192 || s.dump != nil {
		t.Errorf("%d objects in %d parts, dump %v", next, parts, s.dump)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(request(unix.RTM_GETLINK, 0))
	f.Add(header{unix.RTM_GETLINK, unix.NLM_F_REQUEST, 1, 0}.message(append(make([]byte, 16), attribute(unix.IFLA_IFNAME, []byte("lo"))...)))
	change := func(typ uint16, fixed []byte, list ...attr) {
		f.Add(header{typ, unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE, 1, 0}.message(attributes(fixed, list...)))
	}
	ip, gateway := []byte{10, 0, 0, 1}, []byte{10, 0, 0, 9}
	change(unix.RTM_NEWADDR, []byte{unix.AF_INET, 24, 0, 0, 1, 0, 0, 0}, attr{unix.IFA_LOCAL, ip}, attr{unix.IFA_LABEL, []byte("lo:1\x00")})
	change(unix.RTM_DELADDR, []byte{unix.AF_INET, 8, 0, 0, 1, 0, 0, 0}, attr{unix.IFA_LOCAL, []byte{127, 0, 0, 1}})
	change(unix.RTM_NEWADDR, []byte{unix.AF_INET6, 64, 0, 0, 1, 0, 0, 0}, attr{unix.IFA_LOCAL, append([]byte{0xfd}, make([]byte, 15)...)})
	change(unix.RTM_NEWROUTE, []byte{unix.AF_INET, 32, 0, 0, unix.RT_TABLE_MAIN, 4, 0, 1, 0, 0, 0, 0}, attr{unix.RTA_DST, ip}, attr{unix.RTA_GATEWAY, gateway}, attr{unix.RTA_OIF, u32(1)})
	change(unix.RTM_DELROUTE, []byte{unix.AF_INET6, 128, 0, 0, unix.RT_TABLE_LOCAL, 0, 0, 0, 0, 0, 0, 0}, attr{unix.RTA_DST, append(make([]byte, 15), 1)})
	change(unix.RTM_NEWLINK, []byte{0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, attr{unix.IFLA_MTU, u32(100)}, attr{unix.IFLA_IFNAME, []byte("x\x00")})
	change(unix.RTM_NEWNEIGH, []byte{unix.AF_INET, 0, 0, 0, 1, 0, 0, 0, unix.NUD_PERMANENT, 0, 0, 0}, attr{unix.NDA_DST, ip}, attr{unix.NDA_LLADDR, make([]byte, 6)})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, protocol := range []int{unix.NETLINK_ROUTE, unix.NETLINK_SOCK_DIAG} {
			fuzz(t, protocol, b)
		}
	})
}

func fuzz(t *testing.T, protocol int, b []byte) {
	c := caller{vfs.SentryContext()}
	s, err := New(c, inet.New(true, nil), unix.SOCK_RAW, protocol)
	if err != nil {
		t.Fatal(err)
	}
	s.groups = ^uint64(0)
	s.answer(c, 1, b)
	for _, d := range s.in {
		if _, err := syscall.ParseNetlinkMessage(d.data); err != nil {
			t.Errorf("%x: %v", d, err)
		}
	}
}
