package devpts

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// The tests do the same to a terminal of the host's and to one of ours. Where
// the host works asynchronously (a worker carries bytes from end to end) they
// wait until it has come as far as ours.

// pair is a terminal under test.
type pair interface {
	setTermios(unix.Termios) error
	termios() unix.Termios
	write(master bool, b []byte) (int, error)
	read(master bool, n int) ([]byte, error)
	waiting(master bool) int
	flush(master bool, which int) error
	flow(which int) error
	packet(on int)
	poll(master bool) vfs.Events
	close()
}

const pollMask = unix.POLLIN | unix.POLLOUT | unix.POLLPRI

type hostPair struct{ m, s int }

func openHost(t testing.TB) *hostPair {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no terminals on this host: open /dev/ptmx: %v", err)
	}
	unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0)
	s, err := unix.IoctlRetInt(m, unix.TIOCGPTN)
	n, err2 := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err2 != nil {
		t.Fatal(err, err2, s)
	}
	s, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &hostPair{m, s}
}

func (h *hostPair) fd(master bool) int {
	if master {
		return h.m
	}
	return h.s
}

func (h *hostPair) setTermios(t unix.Termios) error {
	return unix.IoctlSetTermios(h.s, unix.TCSETS, &t)
}

func (h *hostPair) termios() unix.Termios {
	t, err := unix.IoctlGetTermios(h.s, unix.TCGETS2)
	if err != nil {
		panic(err)
	}
	return *t
}

func (h *hostPair) write(master bool, b []byte) (int, error) {
	n, err := unix.Write(h.fd(master), b)
	return max(n, 0), err
}

func (h *hostPair) read(master bool, n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := unix.Read(h.fd(master), b)
	return b[:max(n, 0)], err
}

func (h *hostPair) waiting(master bool) int {
	n, err := unix.IoctlGetInt(h.fd(master), unix.TIOCINQ)
	if err != nil {
		panic(err)
	}
	return n
}

func (h *hostPair) flush(master bool, which int) error {
	return unix.IoctlSetInt(h.fd(master), unix.TCFLSH, which)
}
func (h *hostPair) flow(which int) error { return unix.IoctlSetInt(h.s, unix.TCXONC, which) }
func (h *hostPair) packet(on int)        { unix.IoctlSetPointerInt(h.m, unix.TIOCPKT, on) }
func (h *hostPair) poll(master bool) vfs.Events {
	p := []unix.PollFd{{Fd: int32(h.fd(master)), Events: pollMask}}
	unix.Poll(p, 0)
	return vfs.Events(p[0].Revents)
}
func (h *hostPair) close() { unix.Close(h.s); unix.Close(h.m) }

type ourPair struct {
	t *Terminal
	m *master
	s *slave
}

func openOurs(t testing.TB) *ourPair {
	ctx := vfs.SentryContext()
	fs := New(Options{Mode: 0o620, Max: 10}, ctx.Now())
	m, err := fs.OpenMaster(ctx, unix.O_RDWR|unix.O_NONBLOCK, vfs.Path{})
	if err != nil {
		t.Fatal(err)
	}
	term := m.(*master).t
	term.locked = false
	s, err := term.Open(ctx, vfs.Path{}, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	return &ourPair{term, m.(*master), s.(*slave)}
}

func (o *ourPair) call(master bool, arg int) *call {
	return &call{t: o.t, ctx: vfs.SentryContext(), master: master, arg: uint64(arg)}
}

func (o *ourPair) locked(f func() error) error {
	o.t.mu.Lock()
	defer o.t.unlock()
	return f()
}

func (o *ourPair) setTermios(t unix.Termios) error {
	return o.locked(func() error { o.call(false, 0).apply(t, false); return nil })
}

func (o *ourPair) termios() unix.Termios { return o.t.line.tio }

func (o *ourPair) file(master bool) vfs.File {
	if master {
		return o.m
	}
	return o.s
}

func (o *ourPair) write(master bool, b []byte) (int, error) {
	return o.file(master).Write(vfs.SentryContext(), buffers{b}, 0)
}

func (o *ourPair) read(master bool, n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := o.file(master).Read(vfs.SentryContext(), buffers{b}, 0)
	return b[:n], err
}

func (o *ourPair) waiting(master bool) int { return o.call(master, 0).waiting() }
func (o *ourPair) flush(master bool, which int) error {
	return o.locked(o.call(master, which).flush)
}
func (o *ourPair) flow(which int) error { return o.locked(o.call(false, which).flow) }
func (o *ourPair) packet(on int) {
	o.locked(func() error {
		if on != 0 && !o.t.line.packet {
			o.t.line.status = 0
		}
		o.t.line.packet = on != 0
		return nil
	})
}
func (o *ourPair) poll(master bool) vfs.Events { return o.file(master).Ready(pollMask) }
func (o *ourPair) close()                      { o.s.Release(); o.m.Release() }

// script turns bytes into operations on terminals.
type script struct {
	data []byte
	log  strings.Builder
}

func (s *script) next() byte {
	if len(s.data) == 0 {
		return 0
	}
	c := s.data[0]
	s.data = s.data[1:]
	return c
}

func (s *script) bits(flags ...uint32) (v uint32) {
	for i := 0; i < len(flags); i += 8 {
		c := s.next()
		for j := i; j < len(flags) && j < i+8; j++ {
			if c>>(j-i)&1 != 0 {
				v |= flags[j]
			}
		}
	}
	return
}

// typed are characters that mean something, besides letters.
var typed = []byte("\x03\x1c\x7f\x15\x04\x11\x13\x1a\x12\x0f\x17\x16\r\n\n\n\n\t\t\b \x00\x07\xff\xfe_-;ABCabcxyz019\xc3\xa9\xe2\x82\xac\xd7\xdf!\x7f\x7f\x17")

func (s *script) text() []byte {
	n := int(s.next()) % 40
	b := make([]byte, n)
	for i := range b {
		c := s.next()
		if c < 220 {
			c = typed[int(c)%len(typed)]
		}
		b[i] = c
	}
	if bytes.ContainsAny(b, "\x03\x1c\x1a") {
		// A restart of output just before a signal flushes it races with the host's worker.
		b = bytes.Map(func(r rune) rune {
			if r == '!' || r == '\x11' || r == '\x13' {
				return 'q'
			}
			return r
		}, bytes.ToValidUTF8(b, []byte("w")))
	}
	return b
}

func (s *script) newTermios(t unix.Termios) unix.Termios {
	if s.next()%2 == 0 { // mostly as people have it
		t.Lflag = defaults.Lflag &^ s.bits(unix.ISIG, unix.ICANON, unix.ECHO, unix.ECHOE, unix.ECHOK, unix.ECHOCTL, unix.ECHOKE, unix.IEXTEN)
		t.Iflag = defaults.Iflag
		t.Oflag = defaults.Oflag
	} else {
		t.Lflag = s.bits(unix.ISIG, unix.ICANON, unix.ECHO, unix.ECHOE, unix.ECHOK, unix.ECHOCTL, unix.ECHOKE, unix.IEXTEN,
			unix.ECHONL, unix.NOFLSH, unix.ECHOPRT, unix.ICANON, unix.ECHO, unix.IEXTEN, unix.ICANON, unix.ECHO)
		t.Iflag = s.bits(unix.ICRNL, unix.INLCR, unix.IGNCR, unix.IUCLC, unix.ISTRIP, unix.IXON, unix.IXANY, unix.IUTF8,
			unix.PARMRK, unix.IXOFF, unix.IGNBRK, unix.INPCK)
		t.Oflag = s.bits(unix.OPOST, unix.ONLCR, unix.OCRNL, unix.ONOCR, unix.ONLRET, unix.OLCUC, unix.TAB3, unix.OPOST)
	}
	if s.next()%8 == 0 {
		t.Lflag |= unix.EXTPROC
	}
	switch s.next() % 6 {
	case 0:
		t.Cc[unix.VEOL] = ';'
	case 1:
		t.Cc[unix.VEOL2] = '-'
	case 2:
		t.Cc[unix.VINTR] = 0
	case 3:
		t.Cc[unix.VERASE] = '\b'
	case 4:
		t.Cc[unix.VSTART], t.Cc[unix.VSTOP] = '!', '!'
	case 5:
		t.Cc = defaults.Cc
	}
	t.Cc[unix.VMIN] = s.next() % 4
	t.Cc[unix.VTIME] = 0
	return t
}

// run does the script to both. Nothing tells when the host's worker has taken
// typed bytes that show nowhere, so a difference counts if it stays however long
// the worker gets.
func run(t testing.TB, data []byte) {
	var diff string
	for _, pause := range []int{0, 2, 20} {
		if diff = compare(t, data, pause); diff == "" {
			return
		}
	}
	t.Fatal(diff)
}

// compare reports where host and ours part, or "".
func compare(t testing.TB, data []byte, pause int) (diff string) {
	host, ours := openHost(t), openOurs(t)
	defer host.close()
	defer ours.close()
	s := &script{data: data}
	fail := func(what string, got, want any) {
		if diff == "" {
			diff = fmt.Sprintf("%s%s: got %q, want (host) %q", &s.log, what, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
	both := func(what string, f func(pair) (any, error)) {
		fmt.Fprintln(&s.log, what)
		got, gerr := f(ours)
		want, werr := f(host)
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) || !errors.Is(werr, gerr) && gerr != werr {
			fail(what, fmt.Sprintf("%q %v", got, gerr), fmt.Sprintf("%q %v", want, werr))
		}
		if pause > 0 {
			unix.Poll(nil, pause)
		}
		settle(host, ours)
		for _, master := range []bool{true, false} {
			if g, w := ours.waiting(master), host.waiting(master); g != w {
				fail(fmt.Sprintf("%s: FIONREAD of master=%v", what, master), g, w)
			}
			if g, w := ours.poll(master), host.poll(master); g != w {
				fail(fmt.Sprintf("%s: poll of master=%v", what, master), g, w)
			}
		}
	}
	for len(s.data) > 0 && diff == "" {
		switch op := s.next() % 16; op {
		case 0, 1:
			tio := s.newTermios(ours.termios())
			both(fmt.Sprintf("termios i=%o o=%o l=%o cc=%v", tio.Iflag, tio.Oflag, tio.Lflag, tio.Cc), func(p pair) (any, error) {
				err := p.setTermios(tio)
				return p.termios(), err
			})
		case 2, 3, 4, 5:
			b := s.text()
			both(fmt.Sprintf("type %q", b), func(p pair) (any, error) { return p.write(true, b) })
		case 6, 7, 8:
			b := s.text()
			both(fmt.Sprintf("print %q", b), func(p pair) (any, error) { return p.write(false, b) })
		case 9, 10:
			n := int(s.next())%70 + 1
			both(fmt.Sprintf("slave read %d", n), func(p pair) (any, error) { return p.read(false, n) })
		case 11, 12:
			n := int(s.next())%200 + 1
			both(fmt.Sprintf("master read %d", n), func(p pair) (any, error) { return p.read(true, n) })
		case 13:
			which := int(s.next()) % 4
			both(fmt.Sprintf("flush %d", which), func(p pair) (any, error) { return nil, p.flush(false, which) })
		case 14:
			which := int(s.next()) % 4
			both(fmt.Sprintf("flow %d", which), func(p pair) (any, error) { return nil, p.flow(which) })
		case 15:
			on := int(s.next()) % 2
			both(fmt.Sprintf("packet %d", on), func(p pair) (any, error) { p.packet(on); return nil, nil })
		}
	}
	both("end: slave reads", func(p pair) (any, error) { return p.read(false, 8192) })
	both("end: master reads", func(p pair) (any, error) { return p.read(true, 8192) })
	return diff
}

// settle waits for the host's workers, as long as the host differs from ours.
func settle(host *hostPair, ours *ourPair) {
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
		same := true
		for _, master := range []bool{false, true} { // polling makes the host work
			same = host.poll(master) == ours.poll(master) && same
			same = host.waiting(master) == ours.waiting(master) && same
		}
		if same {
			return
		}
		unix.Poll(nil, 1)
	}
}

func TestLineLikeHost(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		data := make([]byte, 100+r.IntN(400))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) { run(t, data) })
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte("\x02\x10hello\n\x09\x40"))
	f.Add(bytes.Repeat([]byte{0, 1, 255, 255, 255, 255, 3, 30, 10, 20, 30, 40}, 10))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1000 {
			return
		}
		run(t, data)
	})
}

// TestLongLine overfills the buffer in canonical and raw mode.
func TestLongLine(t *testing.T) {
	for _, canon := range []uint32{unix.ICANON, 0} {
		host, ours := openHost(t), openOurs(t)
		tio := ours.termios()
		tio.Lflag = canon
		for _, p := range []pair{host, ours} {
			p.setTermios(tio)
			for range 3 {
				p.write(true, bytes.Repeat([]byte("x"), 2000))
				p.poll(false)
			}
			p.write(true, []byte("yz\x7f\n"))
		}
		settle(host, ours)
		for {
			got, gerr := ours.read(false, 10000)
			settle(host, ours)
			want, werr := host.read(false, 10000)
			if !bytes.Equal(got, want) || gerr != werr {
				t.Fatalf("canon %o: got %d bytes %v, want %d bytes %v", canon, len(got), gerr, len(want), werr)
			}
			if gerr != nil {
				break
			}
		}
		host.close()
		ours.close()
	}
}
