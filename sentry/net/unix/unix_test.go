package unix

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// caller is a process for tests, with the ids of the test's own.
type caller struct {
	vfs.Context
	fs *kernel.FSContext
}

func (c *caller) PID() int32            { return int32(os.Getpid()) }
func (c *caller) FS() *kernel.FSContext { return c.fs }

func newCaller(t testing.TB) *caller {
	fs := tmpfs.New(nil, tmpfs.Options{Mode: 0o777}) // no contents, no arena
	ns := vfs.NewNamespace(fs, vfs.MountOptions{})
	return &caller{vfs.SentryContext(), kernel.NewFSContext(ns, ns.Root(), ns.Root(), 0)}
}

// system is a set of numbered sockets.
type system interface {
	open(slot, typ int) error
	pair(a, b, typ int) error
	bind(slot int, name string) error
	listen(slot, backlog int) error
	accept(slot, to int) error
	connect(slot int, name string) error
	disconnect(slot int) error
	send(slot int, data []byte, to string, rights int) (int, error)
	receive(slot, size, flags int) (string, error)
	shutdown(slot, how int) error
	close(slot int) error
	option(slot, name int) (string, error)
	set(slot, name, v int) error
	names(slot int) string
	poll(slot int) string
	ioctl(slot int) string
	finish()
}

const slots = 5

func sockaddr(name string) []byte {
	b := binary.LittleEndian.AppendUint16(nil, unix.AF_UNIX)
	b = append(b, name...)
	if name != "" && name[0] != 0 {
		b = append(b, 0)
	}
	return b
}

// ours runs on this package.
type ours struct {
	c  *caller
	ns *Names
	s  [slots]*Endpoint
}

func (o *ours) put(slot int, e *Endpoint) {
	if o.s[slot] != nil {
		o.s[slot].Release()
	}
	o.s[slot] = e
}

func (o *ours) open(slot, typ int) error {
	e, err := New(o.c, o.ns, typ, 0)
	if err == nil {
		o.put(slot, e)
	}
	return err
}

func (o *ours) pair(a, b, typ int) error {
	x, y, err := Pair(o.c, o.ns, typ, 0)
	if err == nil {
		o.put(a, x)
		o.put(b, y)
	}
	return err
}

func (o *ours) bind(slot int, name string) error    { return o.s[slot].Bind(o.c, sockaddr(name)) }
func (o *ours) listen(slot, backlog int) error      { return o.s[slot].Listen(o.c, backlog) }
func (o *ours) connect(slot int, name string) error { return o.s[slot].Connect(o.c, sockaddr(name)) }
func (o *ours) disconnect(slot int) error           { return o.s[slot].Connect(o.c, make([]byte, 16)) }
func (o *ours) shutdown(slot, how int) error        { return o.s[slot].Shutdown(o.c, how) }

func (o *ours) accept(slot, to int) error {
	n, err := o.s[slot].Accept(o.c, unix.MSG_DONTWAIT)
	if err == nil {
		o.put(to, n.(*Endpoint))
	}
	return err
}

func (o *ours) send(slot int, data []byte, to string, rights int) (int, error) {
	m := socket.Message{Data: memory.Buffers{data}}
	if to != "" {
		m.Name = sockaddr(to)
	}
	for range rights {
		m.Control.Rights = append(m.Control.Rights, vfs.NewAnonymous(vfs.NoFile{}, "x", 0))
	}
	defer m.Control.Release()
	return o.s[slot].Send(o.c, &m, unix.MSG_DONTWAIT)
}

func (o *ours) receive(slot, size, flags int) (string, error) {
	buf := make([]byte, size)
	m := socket.Message{Data: memory.Buffers{buf}}
	n, err := o.s[slot].Receive(o.c, &m, flags|unix.MSG_DONTWAIT)
	defer m.Control.Release()
	return received(n, buf, m.Name, len(m.Control.Rights), m.Control.Creds, m.Flags), err
}

func received(n int, buf, from []byte, rights int, creds *unix.Ucred, flags int) string {
	c := "none"
	if creds != nil {
		c = fmt.Sprint(*creds)
	}
	return fmt.Sprintf("%d %q from %q rights %d creds %s flags %x", n, buf[:max(0, min(n, len(buf)))], auto(from), rights, c, flags)
}

func (o *ours) close(slot int) error {
	o.put(slot, nil)
	return nil
}

func (o *ours) option(slot, name int) (string, error) {
	b, err := o.s[slot].GetOption(o.c, unix.SOL_SOCKET, name, 12)
	return fmt.Sprint(b), err
}

func (o *ours) set(slot, name, v int) error {
	return o.s[slot].SetOption(o.c, unix.SOL_SOCKET, name, socket.Int(v))
}

func (o *ours) names(slot int) string {
	n, _ := o.s[slot].Name()
	p, err := o.s[slot].Peer()
	return fmt.Sprintf("%q %q %v", auto(n), auto(p), err)
}

const pollMask = unix.POLLIN | unix.POLLOUT | unix.POLLRDHUP

func (o *ours) poll(slot int) string { return fmt.Sprintf("%x", o.s[slot].Ready(pollMask)) }

func (o *ours) ioctl(slot int) string {
	n, err := o.s[slot].waitingBytes()
	return fmt.Sprint(n, err, o.s[slot].used.Load())
}

func (o *ours) finish() {
	for i := range o.s {
		o.put(i, nil)
	}
}

// auto hides which name autobind chose.
func auto(b []byte) []byte { return autoName.ReplaceAll(b, []byte("\x00auto")) }

var autoName = regexp.MustCompile("^\x01\x00\x00[0-9a-f]{5}$")

// host runs on the kernel below. Path names are in dir, abstract ones begin with
// it; both are shown without it.
type host struct {
	t   testing.TB
	dir string
	s   [slots]int
	old string
}

func (h *host) name(n string) string {
	if n != "" && n[0] == 0 {
		return "\x00" + h.dir + n[1:]
	}
	return n
}

func (h *host) show(b []byte) []byte {
	return auto([]byte(strings.Replace(string(b), "\x00"+h.dir, "\x00", 1)))
}

func (h *host) put(slot, fd int) {
	if h.s[slot] >= 0 {
		unix.Close(h.s[slot])
	}
	h.s[slot] = fd
}

func (h *host) open(slot, typ int) error {
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		h.put(slot, fd)
	}
	return err
}

func (h *host) pair(a, b, typ int) error {
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		h.put(a, p[0])
		h.put(b, p[1])
	}
	return err
}

func (h *host) bind(slot int, name string) error {
	return rawName(unix.SYS_BIND, h.s[slot], sockaddr(h.name(name)))
}
func (h *host) connect(slot int, name string) error {
	return rawName(unix.SYS_CONNECT, h.s[slot], sockaddr(h.name(name)))
}
func (h *host) disconnect(slot int) error {
	return rawName(unix.SYS_CONNECT, h.s[slot], make([]byte, 16))
}
func (h *host) listen(slot, backlog int) error { return unix.Listen(h.s[slot], backlog) }
func (h *host) shutdown(slot, how int) error   { return unix.Shutdown(h.s[slot], how) }

func (h *host) accept(slot, to int) error {
	fd, _, err := unix.Accept4(h.s[slot], unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err == nil {
		h.put(to, fd)
	}
	return err
}

func (h *host) send(slot int, data []byte, to string, rights int) (int, error) {
	var oob []byte
	if rights > 0 {
		fds := make([]int, rights)
		oob = unix.UnixRights(fds...)
	}
	var sa unix.Sockaddr
	if to != "" {
		n := h.name(to)
		if n[0] == 0 {
			n = "@" + n[1:]
		}
		sa = &unix.SockaddrUnix{Name: n}
	}
	n, err := unix.SendmsgN(h.s[slot], data, oob, sa, unix.MSG_NOSIGNAL)
	return max(n, 0), err
}

func (h *host) receive(slot, size, flags int) (string, error) {
	buf, oob := make([]byte, size), make([]byte, 2000)
	n, from, oobn, rflags, err := rawReceive(h.s[slot], buf, oob, flags)
	if err != nil {
		return received(0, buf, nil, 0, nil, 0), err
	}
	rights, creds := 0, (*unix.Ucred)(nil)
	msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range msgs {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			rights += len(fds)
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
		if c, err := unix.ParseUnixCredentials(&m); err == nil {
			creds = c
		}
	}
	return received(n, buf, h.show(from), rights, creds, rflags&^(unix.MSG_CMSG_CLOEXEC|unix.MSG_NOSIGNAL)), nil
}

func (h *host) close(slot int) error {
	h.put(slot, -1)
	return nil
}

func (h *host) option(slot, name int) (string, error) {
	b := make([]byte, 12)
	n, err := rawOption(h.s[slot], name, b)
	if err != nil {
		return fmt.Sprint([]byte(nil)), err
	}
	return fmt.Sprint(b[:n]), nil
}

func (h *host) set(slot, name, v int) error {
	return unix.SetsockoptInt(h.s[slot], unix.SOL_SOCKET, name, v)
}

func (h *host) names(slot int) string {
	n, _ := rawGetName(unix.SYS_GETSOCKNAME, h.s[slot])
	p, err := rawGetName(unix.SYS_GETPEERNAME, h.s[slot])
	return fmt.Sprintf("%q %q %v", h.show(n), h.show(p), err)
}

func (h *host) poll(slot int) string {
	p := []unix.PollFd{{Fd: int32(h.s[slot]), Events: pollMask}}
	unix.Poll(p, 0)
	return fmt.Sprintf("%x", p[0].Revents)
}

func (h *host) ioctl(slot int) string {
	n, err := unix.IoctlGetInt(h.s[slot], unix.TIOCINQ)
	out, _ := unix.IoctlGetInt(h.s[slot], unix.TIOCOUTQ)
	return fmt.Sprint(n, err, out)
}

func (h *host) finish() {
	for i := range h.s {
		h.put(i, -1)
	}
	os.Chdir(h.old)
}

var (
	testTypes = []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET}
	testNames = []string{"\x00a", "\x00b", "p", "q", "dir/none", "\x00a", "p"}
	testOpts  = []int{unix.SO_TYPE, unix.SO_DOMAIN, unix.SO_PROTOCOL, unix.SO_ACCEPTCONN, unix.SO_ERROR, unix.SO_PEERCRED,
		unix.SO_SNDBUF, unix.SO_RCVBUF, unix.SO_PASSCRED, unix.SO_RCVLOWAT, unix.SO_ERROR, 999}
)

// run does n random things to both and stops where they part.
func run(t *testing.T, r *rand.Rand, n int) {
	dir := t.TempDir()
	old, _ := os.Getwd()
	if err := os.Chdir(dir); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir[max(0, len(dir)-40):], s: [slots]int{-1, -1, -1, -1, -1}, old: old}
	o := &ours{c: newCaller(t), ns: NewNames()}
	defer h.finish()
	defer o.finish()
	var log []string
	typ := testTypes[r.IntN(3)] // mostly one type
	pick := func() int {
		if r.IntN(10) == 0 {
			return testTypes[r.IntN(3)]
		}
		return typ
	}
	compare := func(what string, f func(system) string) {
		log = append(log, what)
		if got, want := f(o), f(h); got != want {
			t.Fatalf("%s:\n got  %s\n host %s", strings.Join(log, "\n"), got, want)
		} else {
			log[len(log)-1] += ": " + got
		}
		for i := range slots {
			if o.s[i] == nil {
				continue
			}
			if got, want := o.poll(i)+" "+o.ioctl(i)+" "+o.names(i), h.poll(i)+" "+h.ioctl(i)+" "+h.names(i); got != want {
				t.Fatalf("%s: then poll, FIONREAD, SIOCOUTQ and names of %d:\n got  %s\n host %s", strings.Join(log, "\n"), i, got, want)
			}
		}
	}
	text := "abcdefghijklmnopqrstuvwxyz"
	for range n {
		slot, other := r.IntN(slots), r.IntN(slots)
		name := testNames[r.IntN(len(testNames))]
		if o.s[slot] == nil {
			k := pick()
			if r.IntN(2) == 0 && slot != other {
				compare(fmt.Sprintf("%d,%d = socketpair type %d", slot, other, k), func(s system) string { return fmt.Sprint(s.pair(slot, other, k)) })
			} else {
				compare(fmt.Sprintf("%d = socket type %d", slot, k), func(s system) string { return fmt.Sprint(s.open(slot, k)) })
			}
			continue
		}
		switch op := r.IntN(24); op {
		case 0, 1:
			compare(fmt.Sprintf("bind %d %q", slot, name), func(s system) string { return fmt.Sprint(s.bind(slot, name)) })
		case 2, 3:
			b := r.IntN(3)
			compare(fmt.Sprintf("listen %d %d", slot, b), func(s system) string { return fmt.Sprint(s.listen(slot, b)) })
		case 4:
			if other != slot {
				compare(fmt.Sprintf("%d = accept %d", other, slot), func(s system) string { return fmt.Sprint(s.accept(slot, other)) })
			}
		case 5, 6, 7:
			compare(fmt.Sprintf("connect %d %q", slot, name), func(s system) string { return fmt.Sprint(s.connect(slot, name)) })
		case 8:
			compare(fmt.Sprintf("connect %d AF_UNSPEC", slot), func(s system) string { return fmt.Sprint(s.disconnect(slot)) })
		case 9, 10, 11, 12:
			size, rights, to := r.IntN(27), 0, ""
			switch r.IntN(12) {
			case 0:
				size = r.IntN(300_000)
			case 1, 2:
				rights = 1 + r.IntN(2)
				size++ // unix.SendmsgN sends a byte of its own with rights alone
			case 3, 4, 5:
				to = name
			}
			data := []byte(strings.Repeat(text, size/26+1))[:size]
			compare(fmt.Sprintf("send %d %d bytes to %q rights %d", slot, size, to, rights), func(s system) string {
				n, err := s.send(slot, data, to, rights)
				return fmt.Sprint(n, err)
			})
		case 13, 14, 15, 16, 17:
			size := r.IntN(40)
			flags := []int{0, 0, 0, unix.MSG_PEEK, unix.MSG_TRUNC, unix.MSG_PEEK | unix.MSG_TRUNC}[r.IntN(6)]
			if flags&unix.MSG_TRUNC != 0 && o.s[slot].typ == unix.SOCK_STREAM {
				flags = 0
			}
			if r.IntN(5) == 0 {
				size = 300_000
			}
			compare(fmt.Sprintf("receive %d %d bytes flags %x", slot, size, flags), func(s system) string {
				got, err := s.receive(slot, size, flags)
				return got + " " + fmt.Sprint(err)
			})
		case 18:
			how := r.IntN(4)
			compare(fmt.Sprintf("shutdown %d %d", slot, how), func(s system) string { return fmt.Sprint(s.shutdown(slot, how)) })
		case 19, 20:
			compare(fmt.Sprintf("close %d", slot), func(s system) string { return fmt.Sprint(s.close(slot)) })
		case 21, 22:
			opt := testOpts[r.IntN(len(testOpts))]
			compare(fmt.Sprintf("option %d %d", slot, opt), func(s system) string {
				got, err := s.option(slot, opt)
				return got + " " + fmt.Sprint(err)
			})
		case 23:
			opt, v := []int{unix.SO_PASSCRED, unix.SO_SNDBUF}[r.IntN(2)], r.IntN(2)*9000
			compare(fmt.Sprintf("set %d %d to %d", slot, opt, v), func(s system) string { return fmt.Sprint(s.set(slot, opt, v)) })
		}
	}
}

func TestLikeHost(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { run(t, rand.New(rand.NewPCG(seed, 7)), 200) })
	}
}

func FuzzLikeHost(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { run(t, rand.New(rand.NewPCG(seed, 8)), 300) })
}

// TestManyWriters lets several send to one at once; every byte must arrive.
func TestManyWriters(t *testing.T) {
	c := newCaller(t)
	a, b, err := Pair(c, NewNames(), unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 4, 1 << 20
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for left := each; left > 0; {
				n, err := block(&a.queue, vfs.EventOut, func() (int, error) {
					return a.Send(c, &socket.Message{Data: memory.Buffers{make([]byte, min(left, 10_000))}}, 0)
				})
				if err != nil {
					t.Error(err)
					return
				}
				left -= n
			}
		})
	}
	got := 0
	for got < writers*each {
		n, err := block(&b.queue, vfs.EventIn, func() (int, error) {
			return b.Receive(c, &socket.Message{Data: memory.Buffers{make([]byte, 70_000)}}, 0)
		})
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	wg.Wait()
	if used := a.used.Load(); used != 0 {
		t.Errorf("%d bytes still count as sent", used)
	}
	a.Release()
	b.Release()
}

// block waits as the syscalls room would.
func block(q *vfs.Queue, mask vfs.Events, try func() (int, error)) (int, error) {
	c := make(chan struct{}, 1)
	w := vfs.NewWaiter(mask, c)
	q.Add(w)
	defer q.Remove(w)
	for {
		n, err := try()
		if err != unix.EAGAIN {
			return n, err
		}
		<-c
	}
}

func BenchmarkPingPong(b *testing.B) {
	c := newCaller(b)
	x, y, _ := Pair(c, NewNames(), unix.SOCK_STREAM, 0)
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		x.Write(c, memory.Buffers{buf}, 0)
		y.Read(c, memory.Buffers{buf}, 0)
	}
}

// TestForgotten: sockets that nobody released and nobody can reach are forgotten.
func TestForgotten(t *testing.T) {
	c, ns := newCaller(t), NewNames()
	for i := range 10 * fewSockets {
		if _, err := New(c, ns, unix.SOCK_STREAM, 0); err != nil {
			t.Fatal(err)
		}
		if i%fewSockets == 0 {
			runtime.GC()
		}
	}
	if n := len(ns.all); n > 4*fewSockets {
		t.Errorf("%d sockets are remembered", n)
	}
}
