package pipe

import (
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/vfs"
)

func TestFIFO(t *testing.T) {
	arena := fstest.NewArena(t)
	vfs.HandleFIFO(Open)
	ns := vfs.NewNamespace(tmpfs.New(arena, tmpfs.Options{Mode: 0o755}), vfs.MountOptions{})
	s := vfs.Start{Root: ns.Root(), At: ns.Root()}
	if _, err := vfs.Mknod(ctx, s, "f", unix.S_IFIFO|0o600, 0); err != nil {
		t.Fatal(err)
	}
	open := func(flags int, want error) *vfs.Description {
		t.Helper()
		d, err := vfs.Open(ctx, s, "f", vfs.OpenHow{Flags: flags})
		if err != want {
			t.Fatalf("open %#x: %v, want %v", flags, err, want)
		}
		return d
	}
	opened := func(d *vfs.Description, want bool) {
		t.Helper()
		if got := d.File().(vfs.SlowOpen).Opened(); got != want {
			t.Errorf("opened: %v, want %v", got, want)
		}
	}
	open(unix.O_WRONLY|unix.O_NONBLOCK, unix.ENXIO)
	r := open(unix.O_RDONLY, nil)
	opened(r, false)
	c := make(chan struct{}, 1)
	r.Queue().Add(vfs.NewWaiter(vfs.EventIn|vfs.EventOut, c))
	w := open(unix.O_WRONLY, nil)
	<-c
	opened(r, true)
	opened(w, true)
	w.Write(ctx, bufs([]byte("hello")))
	w.Unref()
	opened(r, true) // though the writer has gone again
	b := make([]byte, 10)
	if n, err := r.Read(ctx, bufs(b)); n != 5 || err != nil {
		t.Errorf("read: %d %v", n, err)
	}
	if n, err := r.Read(ctx, bufs(b)); n != 0 || err != nil || r.Ready(vfs.EventIn) != vfs.EventHup {
		t.Errorf("read at the end: %d %v, ready %#x", n, err, r.Ready(vfs.EventIn))
	}
	r.Unref()

	r = open(unix.O_RDONLY|unix.O_NONBLOCK, nil)
	if n, err := r.Read(ctx, bufs(b)); n != 0 || err != nil || r.Ready(vfs.EventIn) != 0 {
		t.Errorf("read without a writer ever: %d %v, ready %#x", n, err, r.Ready(vfs.EventIn))
	}
	w = open(unix.O_WRONLY|unix.O_NONBLOCK, nil)
	w.Write(ctx, bufs([]byte("left")))
	w.Unref()
	r.Unref()

	both := open(unix.O_RDWR, nil)
	opened(both, true)
	if _, err := both.Read(ctx, bufs(b)); err != unix.EAGAIN {
		t.Errorf("what nobody read should be gone: %v", err)
	}
	both.Write(ctx, bufs([]byte("self")))
	if n, err := both.Read(ctx, bufs(b)); n != 4 || err != nil {
		t.Errorf("read of one's own: %d %v", n, err)
	}
	both.Unref()
	if len(fifos.of) != 0 {
		t.Errorf("%d FIFOs are left", len(fifos.of))
	}
}

// TestReopen: an anonymous pipe can be opened through /proc/self/fd.
func TestReopen(t *testing.T) {
	r, w := newPair(t, 0)
	w2, err := vfs.OpenPath(ctx, r.Path(), unix.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	w.Unref()
	w2.Write(ctx, bufs([]byte("x")))
	w2.Unref()
	b := make([]byte, 2)
	if n, err := r.Read(ctx, bufs(b)); n != 1 || err != nil {
		t.Errorf("read: %d %v", n, err)
	}
	if n, err := r.Read(ctx, bufs(b)); n != 0 || err != nil {
		t.Errorf("read at the end: %d %v", n, err)
	}
	again, err := vfs.OpenPath(ctx, r.Path(), unix.O_RDONLY) // with no writer left
	if err != nil || !again.File().(vfs.SlowOpen).Opened() || again.Ready(vfs.EventIn) != vfs.EventHup {
		t.Errorf("opened again at the end: %v", err)
	}
	again.Unref()
	r.Unref()
}
