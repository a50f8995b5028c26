package devpts

import (
	"bytes"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// openBridge joins a terminal inside to the slave of a host's; outside is the
// host's master.
func openBridge(t *testing.T) (b *Bridge, outside *os.File, inside *slave) {
	h := openHost(t)
	ctx := vfs.SentryContext()
	b, err := NewBridge(ctx, New(Options{Mode: 0o620, Max: 1}, ctx.Now()), h.s)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(h.s)
	f, err := b.Terminal().Open(ctx, vfs.Path{}, unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	outside = os.NewFile(uintptr(h.m), "ptmx")
	t.Cleanup(func() {
		f.Release()
		b.Close()
		outside.Close()
	})
	return b, outside, f.(*slave)
}

// block waits as the syscalls room would.
func block(t *testing.T, q *vfs.Queue, try func() (int, error)) int {
	t.Helper()
	c := make(chan struct{}, 1)
	w := vfs.NewWaiter(vfs.EventIn|vfs.EventOut, c)
	q.Add(w)
	defer q.Remove(w)
	for {
		n, err := try()
		if err == nil {
			return n
		}
		if err != unix.EAGAIN {
			t.Fatal(err)
		}
		select {
		case <-c:
		case <-t.Context().Done():
			t.Fatal("still EAGAIN")
		}
	}
}

func TestBridgeCarriesALine(t *testing.T) {
	_, outside, inside := openBridge(t)
	outside.Write([]byte("hellp\x7fo\r"))
	buf := make([]byte, 100)
	n := block(t, inside.Queue(), func() (int, error) { return inside.Read(vfs.SentryContext(), buffers{buf}, 0) })
	if got := string(buf[:n]); got != "hello\n" {
		t.Errorf("inside read %q", got)
	}
	want := "hellp\b \bo\r\n"
	if _, err := io.ReadFull(outside, buf[:len(want)]); err != nil || string(buf[:len(want)]) != want {
		t.Errorf("echo outside: %q %v, want %q", buf[:len(want)], err, want)
	}
}

func TestBridgeDrainsBeforeClose(t *testing.T) {
	b, outside, inside := openBridge(t)
	const size = 200_000
	got := make(chan int)
	go func() {
		n, _ := io.Copy(io.Discard, io.LimitReader(outside, size))
		got <- int(n)
	}()
	text := bytes.Repeat([]byte("x"), size)
	for len(text) > 0 {
		n := block(t, inside.Queue(), func() (int, error) {
			return inside.Write(vfs.SentryContext(), buffers{text}, 0)
		})
		text = text[n:]
	}
	b.Drain()
	b.Close()
	if n := <-got; n != size {
		t.Errorf("outside got %d bytes, want %d", n, size)
	}
	if _, err := inside.Write(vfs.SentryContext(), buffers{{'x'}}, 0); err != unix.EIO {
		t.Errorf("write after hangup: %v, want EIO", err)
	}
	if n, err := inside.Read(vfs.SentryContext(), buffers{{'x'}}, 0); n != 0 || err != nil {
		t.Errorf("read after hangup: %d %v, want end of file", n, err)
	}
}

func TestBridgeHangsUpWithTheHost(t *testing.T) {
	b, outside, inside := openBridge(t)
	outside.Close()
	<-b.finish
	if ev := inside.Ready(vfs.EventIn); ev&vfs.EventHup == 0 {
		t.Errorf("no hangup inside: %x", ev)
	}
}

func TestBridgeSize(t *testing.T) {
	b, outside, _ := openBridge(t)
	w := unix.Winsize{Row: 33, Col: 77}
	c, _ := outside.SyscallConn()
	c.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &w) })
	b.SyncSize()
	if b.t.window != w {
		t.Errorf("window is %v, want %v", b.t.window, w)
	}
}
