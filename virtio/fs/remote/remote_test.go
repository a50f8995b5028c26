package remote

import (
	"bytes"
	"errors"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// arena is memory that both ends of a test have.
type arena []byte

func (a arena) Offset(b []byte) (uint64, bool) {
	for at := range a { // without unsafe: the first byte's address tells
		if cap(b) > 0 && &a[at] == &b[:1][0] {
			return uint64(at), at+len(b) <= len(a)
		}
	}
	return 0, false
}

// echo is a server that answers a request with itself.
type echo struct{ forgotten chan bool }

func (e *echo) Handle(in, out [][]byte) (int, error) {
	request := bytes.Join(in, nil)
	if string(request) == "breach" {
		return 0, errors.New("the driver lies")
	}
	n := 0
	for _, o := range out {
		n += copy(o, request[n:])
	}
	return n, nil
}

func (e *echo) Forget() { e.forgotten <- true }

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

func TestShare(t *testing.T) {
	ours, theirs := pair(t)
	memory := make(arena, 4096)
	server := &echo{make(chan bool, 1)}
	served := make(chan error)
	go func() { served <- Serve(theirs, server, memory) }()
	c := NewClient(ours, memory)

	copy(memory[100:], "requests of several parts")
	n, err := c.Handle([][]byte{memory[100:108], memory[108:125]}, [][]byte{memory[1000:1003], memory[2000:2100]})
	if got := string(memory[1000:1003]) + string(memory[2000:2022]); n != 25 || err != nil || got != "requests of several parts" {
		t.Errorf("%d, %v, %q", n, err, got)
	}
	copy(memory, "breach")
	if _, err := c.Handle([][]byte{memory[:6]}, nil); err == nil || err.Error() != "the driver lies" {
		t.Errorf("a breach: %v", err)
	}
	if _, err := c.Handle([][]byte{make([]byte, 1)}, nil); err == nil {
		t.Error("a part that is not the guest's memory was taken")
	}
	if _, err := c.call(message{kind: request, in: []part{{4090, 7}}}); err != nil {
		t.Error(err)
	} else if a, _ := c.call(message{kind: request, in: []part{{^uint64(0), 7}}}); !strings.Contains(a.breach, "not within") {
		t.Errorf("a part beyond the memory: %+v", a)
	}
	c.Forget()
	if !<-server.forgotten {
		t.Error("nothing is forgotten")
	}
	theirs.CloseRead()
	if err := <-served; err != nil {
		t.Error(err)
	}
	theirs.Close()
	if _, err := c.Handle(nil, nil); err == nil {
		t.Error("a server that is gone answers")
	}
	<-c.Done()
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestCopying: requests reach a server that has a window alone, and nothing stays in it that
// another would see; what has no room is refused, as are lies about an answer's length.
func TestCopying(t *testing.T) {
	ours, theirs := pair(t)
	window := make(arena, 2*slotSize+100)
	served := make(chan error)
	server := &echo{make(chan bool, 1)}
	go func() { served <- Serve(theirs, server, window) }()
	client := NewClient(ours, window)
	if _, err := NewCopying(client, window[:slotSize-1]); err == nil {
		t.Error("a window too small for any request was taken")
	}
	c, err := NewCopying(client, window)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			text := strings.Repeat(string(rune('a'+i)), 100_000)
			out := [][]byte{make([]byte, 10), nil, make([]byte, 99_995)}
			n, err := c.Handle([][]byte{[]byte(text[:7]), nil, []byte(text[7:])}, out)
			if got := string(bytes.Join(out, nil)); n != 100_000 || err != nil || got != text+"\x00\x00\x00\x00\x00" {
				t.Errorf("%d: %d, %v, %d bytes", i, n, err, len(got))
			}
		})
	}
	all.Wait()
	if _, err := c.Handle([][]byte{make([]byte, slotSize)}, [][]byte{make([]byte, 1)}); err == nil {
		t.Error("a request larger than a slot was taken")
	}
	if n, err := c.Handle(nil, [][]byte{make([]byte, 5)}); n != 0 || err != nil {
		t.Error(n, err)
	}
	if len(c.slots) != 2 || len(c.room) != 0 {
		t.Errorf("%d slots are free, %d requests under way", len(c.slots), len(c.room))
	}
	c.Forget()
	<-server.forgotten
	theirs.CloseRead()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestLies: an answer of more bytes than there is room for is none.
func TestLies(t *testing.T) {
	ours, theirs := pair(t)
	c := NewClient(ours, make(arena, 64))
	defer c.Close()
	go func() {
		b := make([]byte, maxSize)
		n, _ := theirs.Read(b)
		m, _ := parse(b[:n])
		lie, _ := (&message{kind: answer, id: m.id, written: 1 << 31}).bytes()
		_, _ = theirs.Write(lie)
	}()
	if n, err := c.Handle(nil, nil); err == nil {
		t.Errorf("%d bytes", n)
	}
}

func TestMemory(t *testing.T) {
	ours, theirs := pair(t)
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Pwrite(fd, []byte("guest"), 4096-5); err != nil {
		t.Fatal(err)
	}
	if err := SendMemory(ours, fd); err != nil {
		t.Fatal(err)
	}
	b, err := ReceiveMemory(theirs)
	if err != nil || len(b) != 4096 || string(b[4091:]) != "guest" {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := ours.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if _, err := ReceiveMemory(theirs); err == nil {
		t.Error("a packet without memory is one")
	}
	if SendMemory(ours, -1) == nil {
		t.Error("no memory was sent")
	}
}

// FuzzPacket: what parses is what bytes would have made.
func FuzzPacket(f *testing.F) {
	for _, m := range []message{
		{kind: request, id: 1, in: []part{{0, 40}}, out: []part{{4096, 16}, {8192, 100}}}, {kind: forget, id: 2},
		{kind: answer, id: 3, written: 16}, {kind: answer, id: 4, breach: "no"}, {kind: 9},
	} {
		b, err := m.bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	memory := make([]byte, 1<<16)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			return
		}
		again, err := m.bytes()
		if err != nil {
			t.Fatal(err)
		}
		other, err := parse(again)
		if err != nil || !reflect.DeepEqual(m, other) {
			t.Fatalf("%+v, then %+v (%v)", m, other, err)
		}
		for _, p := range append(m.in, m.out...) {
			if s, err := slices(memory, []part{p}); err == nil && len(s[0]) != int(p.len) {
				t.Fatalf("%+v: %d bytes", p, len(s[0]))
			}
		}
	})
}
