package vsock

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/virtio/virtiotest"
)

func socketPath(t testing.TB) string {
	dir, err := os.MkdirTemp("", "vsock") // t.TempDir can be longer than an address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "v")
}

// connect is a program of the host: CONNECT and OK.
func connect(t testing.TB, path string, port uint32) *net.UnixConn {
	t.Helper()
	c, line := tryConnect(t, path, port)
	if !strings.HasPrefix(line, "OK ") {
		t.Fatalf("CONNECT %d: got %q", port, line)
	}
	return c
}

func tryConnect(t testing.TB, path string, port uint32) (*net.UnixConn, string) {
	t.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	fmt.Fprintf(nc, "CONNECT %d\n", port)
	line, _ := readLine(nc)
	return nc.(*net.UnixConn), line
}

func serveHost(t testing.TB, path string, port uint32, serve func(*net.UnixConn)) {
	t.Helper()
	l, err := net.Listen("unix", fmt.Sprintf("%s_%d", path, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c.(*net.UnixConn))
		}
	}()
}

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// echo sends back all that comes, then ends.
func echo(c *guestConn) {
	io.Copy(c, struct{ io.Reader }{c})
	c.close()
}

func TestHostConnects(t *testing.T) {
	path := socketPath(t)
	d, g := startDevice(t, path)
	g.listen(1024, echo)
	c := connect(t, path, 1024)
	want := noise(1<<20, 1)
	go func() {
		c.Write(want)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes and %v, want the %d that were sent", len(got), err, len(want))
	}
	g.await(func() bool { return len(g.conns) == 0 })
	if s := d.Stats(); s.Connections != 0 || s.Opened != 1 || s.FromGuest != 1<<20 || s.ToGuest != 1<<20 {
		t.Errorf("stats: %+v", s)
	}
}

func TestGuestConnects(t *testing.T) {
	path := socketPath(t)
	_, g := startDevice(t, path)
	serveHost(t, path, 52, func(c *net.UnixConn) {
		io.Copy(c, struct{ io.Reader }{c})
		c.Close()
	})
	c, err := g.dial(9999, 52)
	if err != nil {
		t.Fatal(err)
	}
	want := noise(300_000, 2)
	go func() {
		c.Write(want)
		c.send(opShutdown, noSend, nil)
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes and %v, want the %d that were sent", len(got), err, len(want))
	}
	c.close()
}

func TestNobodyThere(t *testing.T) {
	path := socketPath(t)
	_, g := startDevice(t, path)
	if _, err := g.dial(1, 77); err == nil {
		t.Error("the guest reached a port of the host that nobody serves")
	}
	if _, line := tryConnect(t, path, 77); line != "" {
		t.Errorf("a port of the guest that nobody serves said %q", line)
	}
}

// TestManyConnections has a thousand at once, half from each side, all of which
// carry data both ways.
func TestManyConnections(t *testing.T) {
	const conns, size = 1000, 64 << 10
	path := socketPath(t)
	d, g := startDevice(t, path)
	g.listen(1024, echo)
	serveHost(t, path, 52, func(c *net.UnixConn) {
		io.Copy(c, struct{ io.Reader }{c})
		c.Close()
	})
	want := noise(size, 3)
	var all, open sync.WaitGroup
	open.Add(conns)
	counted := make(chan struct{}) // before the first of them ends
	for i := range conns {
		all.Go(func() {
			var rw io.ReadWriter
			var done func()
			if i%2 == 0 {
				c := connect(t, path, 1024)
				rw, done = c, func() { c.CloseWrite() }
			} else {
				c, err := g.dial(uint32(10000+i), 52)
				if err != nil {
					t.Error(err)
					open.Done()
					return
				}
				rw, done = c, func() { c.send(opShutdown, noSend, nil) }
			}
			open.Done()
			open.Wait()
			if i == 0 {
				if n := d.Stats().Connections; n != conns {
					t.Errorf("%d connections, want %d", n, conns)
				}
				close(counted)
			}
			<-counted
			go func() {
				rw.Write(want)
				done()
			}()
			if got, err := io.ReadAll(rw); err != nil || !bytes.Equal(got, want) {
				t.Errorf("connection %d: got %d bytes and %v", i, len(got), err)
			}
			if c, ok := rw.(*guestConn); ok {
				c.close()
			}
		})
	}
	all.Wait()
	g.await(func() bool { return len(g.conns) == 0 })
	if s := d.Stats(); s.Connections != 0 || s.CreditOverruns != 0 || s.BadPackets != 0 {
		t.Errorf("stats: %+v", s)
	}
}

// TestBulk sends 64 MiB each way at the same time.
func TestBulk(t *testing.T) {
	const size = 64 << 20
	path := socketPath(t)
	_, g := startDevice(t, path)
	want := noise(size, 4)
	sum := sha256.Sum256(want)
	result := make(chan string, 2)
	receive := func(who string, r io.Reader) {
		h := sha256.New()
		n, err := io.Copy(h, struct{ io.Reader }{r})
		if n != size || err != nil || [32]byte(h.Sum(nil)) != sum {
			result <- fmt.Sprintf("%s received %d bytes and %v", who, n, err)
			return
		}
		result <- ""
	}
	g.listen(5, func(c *guestConn) {
		go receive("the guest", c)
		c.Write(want)
		c.send(opShutdown, noSend, nil)
	})
	c := connect(t, path, 5)
	go receive("the host", c)
	c.Write(want)
	c.CloseWrite()
	for range 2 {
		if complaint := <-result; complaint != "" {
			t.Error(complaint)
		}
	}
}

// TestCredit lets a guest send to a socket that takes nothing: no more than the
// window, and a packet beyond it ends the connection.
func TestCredit(t *testing.T) {
	path := socketPath(t)
	d, g := startDevice(t, path)
	socket := make(chan *net.UnixConn, 1)
	serveHost(t, path, 52, func(c *net.UnixConn) { socket <- c })
	c, err := g.dial(1, 52)
	if err != nil {
		t.Fatal(err)
	}
	host := <-socket
	defer host.Close()
	if c.peerAlloc != largeWindow {
		t.Fatalf("a window of %d", c.peerAlloc)
	}
	// The socket's own buffer takes some, of which the guest hears; then our
	// window fills up.
	piece := make([]byte, 32<<10)
	room := func() uint32 {
		g.mu.Lock()
		defer g.mu.Unlock()
		return c.peerAlloc - (c.sent - c.peerTaken)
	}
	for room() >= uint32(len(piece)) {
		c.Write(piece)
		c.send(opCreditRequest, 0, nil)
	}
	c.Write(piece[:room()]) // to the last byte
	c.send(opData, 0, make([]byte, largeWindow))
	g.await(func() bool { return c.reset })
	if n := d.Stats().CreditOverruns; n != 1 {
		t.Errorf("%d credit overruns, want 1", n)
	}
}

// TestGuestCredit lets a host send to a guest that takes nothing.
func TestGuestCredit(t *testing.T) {
	path := socketPath(t)
	_, g := startDevice(t, path)
	accepted := make(chan *guestConn, 1)
	g.listen(5, func(c *guestConn) { accepted <- c })
	host := connect(t, path, 5)
	c := <-accepted
	want := noise(2*guestWindow, 5)
	go func() {
		host.Write(want)
		host.CloseWrite()
	}()
	// handle complains of a byte too much.
	g.await(func() bool { return c.received == guestWindow && c.requests == 1 })
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes and %v", len(got), err)
	}
}

func TestHalfClose(t *testing.T) {
	path := socketPath(t)
	_, g := startDevice(t, path)
	accepted := make(chan *guestConn, 4)
	g.listen(5, func(c *guestConn) { accepted <- c })

	t.Run("the host is done sending", func(t *testing.T) {
		host := connect(t, path, 5)
		c := <-accepted
		host.CloseWrite()
		g.await(func() bool { return c.shutdown == noSend })
		c.Write([]byte("late"))
		b := make([]byte, 4)
		if _, err := io.ReadFull(host, b); err != nil || string(b) != "late" {
			t.Errorf("got %q, %v", b, err)
		}
		host.Close()
		g.await(func() bool { return c.shutdown == noMore })
		c.close()
	})
	t.Run("the host is gone", func(t *testing.T) {
		host := connect(t, path, 5)
		c := <-accepted
		host.Write([]byte("last"))
		host.Close()
		g.await(func() bool { return c.shutdown == noMore })
		if got, err := io.ReadAll(c); err != nil || string(got) != "last" {
			t.Errorf("got %q, %v", got, err)
		}
		c.close()
	})
	t.Run("the host is done receiving", func(t *testing.T) {
		host := connect(t, path, 5)
		c := <-accepted
		host.CloseRead()
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				break
			}
		}
		g.await(func() bool { return c.shutdown == noReceive })
		c.close()
	})
	t.Run("the guest is done sending", func(t *testing.T) {
		host := connect(t, path, 5)
		c := <-accepted
		c.Write([]byte("last"))
		c.send(opShutdown, noSend, nil)
		if got, err := io.ReadAll(host); err != nil || string(got) != "last" {
			t.Errorf("got %q, %v", got, err)
		}
		host.Write([]byte("late"))
		g.await(func() bool { return c.in.String() == "late" })
		c.close()
	})
	t.Run("the guest is done receiving", func(t *testing.T) {
		host := connect(t, path, 5)
		c := <-accepted
		c.send(opShutdown, noReceive, nil)
		for {
			if _, err := host.Write(make([]byte, 4096)); err != nil {
				if !errors.Is(err, unix.EPIPE) {
					t.Error(err)
				}
				break
			}
		}
		c.Write([]byte("still"))
		b := make([]byte, 5)
		if _, err := io.ReadFull(host, b); err != nil || string(b) != "still" {
			t.Errorf("got %q, %v", b, err)
		}
		c.close()
	})
	t.Run("the guest resets after its shutdown", func(t *testing.T) {
		host := connect(t, path, 5)
		c := <-accepted
		want := noise(largeWindow, 6)
		c.Write(want)
		c.g.raw(header{srcCID: testCID, dstCID: hostCID, srcPort: c.key.guest, dstPort: c.key.host, kind: stream, op: opShutdown, flags: noSend}, nil)
		c.send(opReset, 0, nil)
		if got, err := io.ReadAll(host); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes and %v, want all %d", len(got), err, len(want))
		}
	})
	t.Run("the guest resets", func(t *testing.T) {
		host := connect(t, path, 5)
		c := <-accepted
		c.send(opReset, 0, nil)
		if n, err := host.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("read %d bytes and %v", n, err)
		}
	})
}

// TestHostilePackets sends what no driver sends. The device lives, and answers
// with a reset where there is somebody to answer.
func TestHostilePackets(t *testing.T) {
	path := socketPath(t)
	d, g := startDevice(t, path)
	good := header{srcCID: testCID, dstCID: hostCID, srcPort: 1, dstPort: 52, kind: stream}
	with := func(change func(*header)) header {
		h := good
		change(&h)
		return h
	}
	for _, row := range []struct {
		name    string
		packet  header
		payload []byte
		reset   bool
	}{
		{"from another guest", with(func(h *header) { h.srcCID, h.op = 43, opData }), nil, false},
		{"to another guest", with(func(h *header) { h.dstCID, h.op = 43, opData }), nil, false},
		{"longer than it is", with(func(h *header) { h.len, h.op = 1<<32-1, opData }), []byte("x"), false},
		{"data for nobody", with(func(h *header) { h.op, h.len = opData, 1 }), []byte("x"), true},
		{"no operation", with(func(h *header) { h.op = 0 }), nil, true},
		{"an unknown operation", with(func(h *header) { h.op = 99 }), nil, true},
		{"a reset for nobody", with(func(h *header) { h.op = opReset }), nil, false},
		{"another type", with(func(h *header) { h.op, h.kind = opRequest, 2 }), nil, true},
		{"a response to nothing", with(func(h *header) { h.op = opResponse }), nil, true},
	} {
		before := g.strangers()
		g.raw(row.packet, row.payload)
		if row.reset {
			g.await(func() bool { return len(g.last) == before+1 })
			if got := g.last[before]; got.srcPort != 52 || got.dstPort != 1 {
				t.Errorf("%s: answered %+v", row.name, got)
			}
		} else if g.strangers() != before {
			t.Errorf("%s: answered", row.name)
		}
	}
	b := make([]byte, headerSize-1)
	g.driver.Send(sendQueue, [][]byte{b}, nil).Wait()
	if s := d.Stats(); s.BadPackets != 4 || s.Connections != 0 {
		t.Errorf("stats: %+v", s)
	}

	// In a connection.
	serveHost(t, path, 52, func(c *net.UnixConn) { io.Copy(io.Discard, c) })
	for _, op := range []uint16{0, opRequest, opResponse, 99} {
		c, err := g.dial(7, 52)
		if err != nil {
			t.Fatal(err)
		}
		c.send(op, 0, nil)
		g.await(func() bool { return c.reset })
	}
	c, err := g.dial(7, 52)
	if err != nil {
		t.Fatal(err)
	}
	c.send(opShutdown, noSend, nil)
	c.send(opData, 0, []byte("against its word"))
	g.await(func() bool { return c.reset })
}

// TestFlood asks for far more refusals than a guest that reads none may have.
func TestFlood(t *testing.T) {
	d, err := New(Options{CID: testCID})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	driver := virtiotest.Start(t, d, 0)
	h := header{srcCID: testCID, dstCID: hostCID, kind: stream, op: opData}
	for range maxRefusals + 10 {
		h.srcPort++
		b := h.bytes()
		driver.Send(sendQueue, [][]byte{b[:]}, nil).Wait()
	}
	if s := d.Stats(); s.LostRefusals != 10 {
		t.Errorf("%d refusals lost, want 10", s.LostRefusals)
	}
	driver.Stop()
}

func TestTooManyConnections(t *testing.T) {
	never := func(ctx context.Context, _ uint32) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	d, err := New(Options{CID: testCID, Dial: never})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	driver := virtiotest.Start(t, d, 0)
	h := header{srcCID: testCID, dstCID: hostCID, kind: stream, op: opRequest, dstPort: 52}
	for range maxConns + 5 {
		h.srcPort++
		b := h.bytes()
		driver.Send(sendQueue, [][]byte{b[:]}, nil).Wait()
	}
	if s := d.Stats(); s.Connections != maxConns || s.Refused != 5 {
		t.Errorf("stats: %+v, want %d connections and 5 refused", s, maxConns)
	}
	driver.Stop()
}

// TestForgets resets a device that still owes refusals: a new driver gets none of them.
func TestForgets(t *testing.T) {
	path := socketPath(t)
	d, err := New(Options{CID: testCID, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	driver := virtiotest.Start(t, d, 0)
	h := header{srcCID: testCID, dstCID: hostCID, kind: stream, op: opData, srcPort: 1, dstPort: 2}
	b := h.bytes()
	driver.Send(sendQueue, [][]byte{b[:]}, nil).Wait()
	driver.Stop()
	d.Reset()
	if _, line := tryConnect(t, path, 5); line != "" || d.Stats().Opened != 0 {
		t.Errorf("between two drivers: got %q, %+v", line, d.Stats())
	}
	driver.Reset()
	buffer := driver.Send(receiveQueue, nil, []int{4096})
	h.srcPort, h.dstPort = 3, 4
	b = h.bytes()
	driver.Send(sendQueue, [][]byte{b[:]}, nil)
	if got := decode(buffer.Wait()); got.op != opReset || got.dstPort != 3 {
		t.Errorf("the first packet of a new driver is %+v", got)
	}
	driver.Stop()
}

// TestEarlyResponse answers a request that the guest has not been sent.
func TestEarlyResponse(t *testing.T) {
	path := socketPath(t)
	d, err := New(Options{CID: testCID, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	driver := virtiotest.Start(t, d, 0)
	port := d.nextPort
	refused := make(chan string, 1)
	go func() {
		_, line := tryConnect(t, path, 5)
		refused <- line
	}()
	driver.Send(receiveQueue, nil, []int{4096}).Wait() // the request of the first
	second, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	io.WriteString(second, "CONNECT 5\n")
	for _, k := range []key{{5, port}, {5, port + 1}} {
		for d.find(k) == nil {
			runtime.Gosched()
		}
		h := header{srcCID: testCID, dstCID: hostCID, srcPort: k.guest, dstPort: k.host, kind: stream, op: opResponse}
		b := h.bytes()
		driver.Send(sendQueue, [][]byte{b[:]}, nil).Wait()
	}
	if line := <-refused; !strings.HasPrefix(line, "OK ") {
		t.Errorf("a response in time: the host read %q", line)
	}
	if n, err := second.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("a response before its request: the host read %d bytes and %v", n, err)
	}
	driver.Stop()
}

// TestRequestTakenBack has a guest give up while the host is being asked.
func TestRequestTakenBack(t *testing.T) {
	asked, ended := make(chan struct{}), make(chan struct{})
	slow := func(ctx context.Context, _ uint32) (net.Conn, error) {
		close(asked)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	d, err := New(Options{CID: testCID, Dial: slow})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	driver := virtiotest.Start(t, d, 0)
	for _, op := range []uint16{opRequest, opReset} {
		h := header{srcCID: testCID, dstCID: hostCID, srcPort: 1, dstPort: 52, kind: stream, op: op}
		b := h.bytes()
		driver.Send(sendQueue, [][]byte{b[:]}, nil).Wait()
		<-asked
	}
	<-ended
	driver.Stop()
}

func TestBadBuffers(t *testing.T) {
	for _, row := range []struct {
		name string
		out  [][]byte
		in   []int
	}{
		{"too small", nil, []int{headerSize}},
		{"nothing to write", [][]byte{{1}}, nil},
		{"something to read", [][]byte{{1}}, []int{4096}},
	} {
		d, err := New(Options{CID: testCID})
		if err != nil {
			t.Fatal(err)
		}
		driver := virtiotest.Start(t, d, 0)
		h := header{srcCID: testCID, dstCID: hostCID, kind: stream, op: opData}
		b := h.bytes()
		driver.Send(sendQueue, [][]byte{b[:]}, nil)
		driver.Send(receiveQueue, row.out, row.in)
		if err := driver.WaitFailed(); !strings.Contains(err.Error(), "§5.10.6.1") {
			t.Errorf("%s: %v", row.name, err)
		}
		driver.Stop()
		d.Close()
	}
}

// TestPause keeps connections through a pause.
func TestPause(t *testing.T) {
	path := socketPath(t)
	_, g := startDevice(t, path)
	g.listen(5, echo)
	c := connect(t, path, 5)
	for i := range 20 {
		want := noise(100_000, byte(i))
		go c.Write(want)
		g.driver.Stop()
		g.driver.Restart()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("after pause %d: %v", i, err)
		}
	}
}

// TestReset ends connections when the driver forgets them.
func TestReset(t *testing.T) {
	path := socketPath(t)
	d, g := startDevice(t, path)
	g.listen(5, echo)
	c := connect(t, path, 5)
	g.driver.Reset()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes and %v", n, err)
	}
	<-g.done
	if n := d.Stats().Connections; n != 0 {
		t.Errorf("%d connections after a reset", n)
	}
	g = newGuest(t, g.driver)
	g.listen(5, echo)
	c = connect(t, path, 5)
	c.Write([]byte("again"))
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "again" {
		t.Errorf("got %q, %v", b, err)
	}
}

// TestRestore is a snapshot's other side: the driver hears that its connections
// are gone, and new ones work.
func TestRestore(t *testing.T) {
	path := socketPath(t)
	d, g := startDevice(t, path)
	g.listen(5, echo)
	old := connect(t, path, 5)
	event := g.driver.Send(eventQueue, nil, []int{8})
	g.driver.Stop()
	if event.Done() {
		t.Error("an event without a reason")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := old.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the old connection read %d bytes and %v", n, err)
	}
	again, err := New(Options{CID: testCID, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	g.driver.Replace(again)
	if got := event.Wait(); !bytes.Equal(got, binary.LittleEndian.AppendUint32(nil, eventReset)) {
		t.Errorf("event: got %v, want TRANSPORT_RESET", got)
	}
	g.driver.Send(eventQueue, nil, []int{8}) // it has read the event
	c := connect(t, path, 5)
	c.Write([]byte("again"))
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "again" {
		t.Errorf("got %q, %v", b, err)
	}
	g.driver.Stop()
	for _, state := range [][]byte{nil, {9}, {9, 0}, {stateVersion}, {stateVersion, eventSize + 1}} {
		if err := again.Restore(state); err == nil {
			t.Errorf("the state %v was taken", state)
		}
	}
}

func TestConnectLines(t *testing.T) {
	path := socketPath(t)
	_, g := startDevice(t, path)
	g.listen(5, func(c *guestConn) {
		c.Write([]byte("hi"))
	})
	for _, line := range []string{"HELLO 5\n", "CONNECT\n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 5 6\n", strings.Repeat("x", 100), "\n"} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, line)
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%q was answered", line)
		}
		c.Close()
	}
	// What follows the line in one piece is the guest's.
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "connect 5\r\nearly")
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || !regexp.MustCompile(`^OK [0-9]{10}\n$`).MatchString(line) {
		t.Errorf("got %q, %v", line, err)
	}
	g.await(func() bool {
		for _, c := range g.conns {
			return c.in.String() == "early"
		}
		return false
	})
}

func TestNoDriverYet(t *testing.T) {
	path := socketPath(t)
	d, err := New(Options{CID: testCID, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, line := tryConnect(t, path, 5); line != "" {
		t.Errorf("a device without a driver said %q", line)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("Close left its socket: %v", err)
	}
}

func TestNew(t *testing.T) {
	path := socketPath(t)
	for _, row := range []struct {
		o    Options
		says string
	}{
		{Options{CID: 2}, "CID 2"},
		{Options{CID: 1<<32 - 1}, "CID 4294967295"},
		{Options{CID: 3, Path: "/" + strings.Repeat("x", 100)}, "101 bytes"},
		{Options{CID: 3, Path: "/nowhere/at/all"}, "no such file"},
	} {
		if _, err := New(row.o); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%+v: got %v, want an error that says %q", row.o, err, row.says)
		}
	}
	d, err := New(Options{CID: 3, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{CID: 4, Path: path}); err == nil || !strings.Contains(err.Error(), "another machine") {
		t.Errorf("a path in use: %v", err)
	}
	if got, want := configOf(d), []byte{3, 0, 0, 0, 0, 0, 0, 0, 0, 0}; !bytes.Equal(got, want) {
		t.Errorf("configuration %v, want %v", got, want)
	}
	d.Close()

	// A machine that was killed leaves its socket behind.
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	d, err = New(Options{CID: 3, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{CID: 3, Path: path}); err == nil {
		t.Error("a file gave way to a socket")
	}
}

func configOf(d *Device) []byte {
	b := []byte{9, 9, 9, 9, 9, 9, 9, 9, 9, 9}
	d.ReadConfig(0, b)
	d.ReadConfig(1<<32-1, make([]byte, 4))
	return b
}
