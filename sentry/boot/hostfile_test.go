package boot

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// TestWriteToPipe: a write takes all that a pipe of the host's has room for, for only of
// a pipe that was full is anybody told when it is read.
func TestWriteToPipe(t *testing.T) {
	const room = 64 << 10
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, room); err != nil {
		t.Fatal(err)
	}
	watch, err := newWatcher()
	if err != nil {
		t.Fatal(err)
	}
	f, err := newHostFile(fd, watch, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	write := func(n int) (int, error) { return f.Write(nil, memory.Buffers{make([]byte, n)}, 0) }
	for _, row := range []struct {
		n, want int
		err     error
	}{
		{36000, 36000, nil},
		{0, 0, nil},
		{200000, room - 36864, nil}, // each chunk has pages of its own
		{1, 0, unix.EAGAIN},
	} {
		if n, err := write(row.n); n != row.want || err != row.err {
			t.Errorf("write of %d: %d, %v; want %d, %v", row.n, n, err, row.want, row.err)
		}
	}
	c := make(chan struct{}, 1)
	q := f.Queue()
	waiter := vfs.NewWaiter(vfs.EventOut, c)
	q.Add(waiter)
	defer q.Remove(waiter)
	if _, err := r.Read(make([]byte, room)); err != nil {
		t.Fatal(err)
	}
	<-c
	r.Close()
	if n, err := write(1); err != unix.EPIPE {
		t.Errorf("write to a pipe that nobody reads: %d, %v", n, err)
	}
}
