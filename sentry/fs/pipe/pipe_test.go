package pipe

import (
	"bytes"
	"fmt"
	"math/rand"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

var ctx = vfs.SentryContext()

func newPair(tb testing.TB, flags int) (r, w *vfs.Description) {
	tb.Helper()
	r, w, err := New(ctx, flags)
	if err != nil {
		tb.Fatal(err)
	}
	return r, w
}

func bufs(b []byte) memory.Buffers { return memory.Buffers{b} }

// steps on a pipe; each row says what the call gives on Linux.
func TestSteps(t *testing.T) {
	big := make([]byte, 100000)
	type step struct {
		what string // w: write n, r: read n, cr, cw: close, p: poll, s: F_SETPIPE_SZ
		n    int
		want string
	}
	for name, row := range map[string]struct {
		flags int
		steps []step
	}{
		"empty":   {0, []step{{"r", 10, "0 EAGAIN"}, {"p", 0, "out"}, {"cw", 0, ""}, {"p", 0, "hup"}, {"r", 10, "0"}}},
		"left":    {0, []step{{"w", 10, "10"}, {"p", 0, "in out"}, {"cw", 0, ""}, {"r", 4, "4"}, {"p", 0, "in hup"}, {"r", 10, "6"}, {"r", 1, "0"}}},
		"broken":  {0, []step{{"cr", 0, ""}, {"p", 0, "out err"}, {"w", 1, "0 EPIPE"}}},
		"full":    {0, []step{{"w", 65536, "65536"}, {"p", 0, "in"}, {"w", 1, "0 EAGAIN"}, {"r", 4096, "4096"}, {"p", 0, "in out"}, {"w", 4096, "4096"}}},
		"torn":    {0, []step{{"w", 65000, "65000"}, {"w", 4096, "0 EAGAIN"}, {"w", 5000, "536"}, {"r", 100000, "65536"}}},
		"packets": {unix.O_DIRECT, []step{{"w", 10, "10"}, {"w", 20, "20"}, {"r", 4, "4"}, {"r", 100, "20"}, {"r", 1, "0 EAGAIN"}}},
		"pages":   {unix.O_DIRECT, []step{{"w", 5000, "5000"}, {"r", 9000, "4096"}, {"r", 9000, "904"}}},
		"resize":  {0, []step{{"w", 5000, "5000"}, {"s", 4096, "0 EBUSY"}, {"s", 5000, "8192"}, {"w", 4000, "0 EAGAIN"}, {"r", 8192, "5000"}, {"s", 1, "4096"}, {"w", 9000, "4096"}}},
		"nothing": {0, []step{{"w", 0, "0"}, {"r", 0, "0"}}},
	} {
		t.Run(name, func(t *testing.T) {
			r, w := newPair(t, row.flags)
			for i, s := range row.steps {
				got := ""
				tell := func(n int, err error) {
					if got = fmt.Sprint(n); err != nil {
						got += " " + unix.ErrnoName(err.(unix.Errno))
					}
				}
				switch s.what {
				case "w":
					tell(w.Write(ctx, bufs(big[:s.n])))
				case "r":
					tell(r.Read(ctx, bufs(make([]byte, s.n))))
				case "s":
					n, err := w.File().(*File).Fcntl(ctx, unix.F_SETPIPE_SZ, uint64(s.n))
					tell(int(n), err)
				case "cr":
					r.Unref()
					r = nil
				case "cw":
					w.Unref()
					w = nil
				case "p":
					var e vfs.Events
					if r != nil {
						e |= r.Ready(vfs.EventIn | vfs.EventOut)
					}
					if w != nil {
						e |= w.Ready(vfs.EventIn | vfs.EventOut)
					}
					got = events(e)
				}
				if got != s.want {
					t.Errorf("step %d, %v: got %q, want %q", i, s, got, s.want)
				}
			}
		})
	}
}

func events(e vfs.Events) string {
	var b bytes.Buffer
	for _, x := range []struct {
		e vfs.Events
		s string
	}{{vfs.EventIn, "in"}, {vfs.EventOut, "out"}, {vfs.EventErr, "err"}, {vfs.EventHup, "hup"}} {
		if e&x.e != 0 {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(x.s)
		}
	}
	return b.String()
}

// TestLikeLinux does random transfers on a pipe of Linux's and one of ours.
func TestLikeLinux(t *testing.T) {
	for seed := range int64(20) {
		r := rand.New(rand.NewSource(seed))
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		in, out := newPair(t, 0)
		next := byte(0)
		for i := range 2000 {
			n := r.Intn(6000)
			b, c := make([]byte, n), make([]byte, n)
			var gotN, wantN int
			var gotErr, wantErr error
			if r.Intn(2) == 0 {
				for j := range b {
					b[j] = next
					next++
				}
				// Linux counts room in pages: keep away from the edge, where it differs.
				if in.File().(*File).p.n+n > 40000 {
					continue
				}
				gotN, gotErr = out.Write(ctx, bufs(b))
				wantN, wantErr = unix.Write(fds[1], b)
			} else {
				gotN, gotErr = in.Read(ctx, bufs(b))
				wantN, wantErr = unix.Read(fds[0], c)
				wantN = max(wantN, 0)
				if !bytes.Equal(b, c) {
					t.Fatalf("seed %d, step %d: other bytes", seed, i)
				}
			}
			if gotN != wantN || gotErr != wantErr {
				t.Fatalf("seed %d, step %d, %d bytes: got %d %v, Linux %d %v", seed, i, n, gotN, gotErr, wantN, wantErr)
			}
		}
		unix.Close(fds[0])
		unix.Close(fds[1])
		in.Unref()
		out.Unref()
	}
}

func TestSplice(t *testing.T) {
	ar, aw := newPair(t, 0)
	br, bw := newPair(t, 0)
	aw.Write(ctx, bufs([]byte("hello, world")))
	if n, err := Tee(ar, bw, 5); n != 5 || err != nil {
		t.Fatalf("tee: %d %v", n, err)
	}
	if n, err := Splice(ctx, ar, nil, bw, nil, 100); n != 12 || err != nil {
		t.Fatalf("splice: %d %v", n, err)
	}
	b := make([]byte, 100)
	if n, _ := br.Read(ctx, bufs(b)); string(b[:n]) != "hellohello, world" {
		t.Fatalf("read %q", b[:n])
	}
	if _, err := Splice(ctx, ar, nil, bw, nil, 1); err != unix.EAGAIN {
		t.Fatalf("splice of an empty pipe: %v", err)
	}
	if d, e := Blocked(ar, bw); d != ar || e != vfs.EventIn {
		t.Fatalf("blocked on %v %v", d, e)
	}
	if _, err := Splice(ctx, ar, nil, aw, nil, 1); err != unix.EINVAL {
		t.Fatalf("splice of a pipe into itself: %v", err)
	}
	aw.Unref()
	if n, err := Splice(ctx, ar, nil, bw, nil, 1); n != 0 || err != nil {
		t.Fatalf("splice at the end: %d %v", n, err)
	}
	br.Unref()
	if _, err := Tee(ar, bw, 1); err != unix.EPIPE {
		t.Fatalf("tee into a broken pipe: %v", err)
	}
	ar.Unref()
	bw.Unref()
}

func TestWakes(t *testing.T) {
	r, w := newPair(t, 0)
	c := make(chan struct{}, 1)
	r.Queue().Add(vfs.NewWaiter(vfs.EventIn, c))
	w.Write(ctx, bufs([]byte("x")))
	<-c // it would hang
	w.Unref()
	<-c
	r.Unref()
}

func BenchmarkRoundTrip(b *testing.B) {
	r, w := newPair(b, 0)
	p := make([]byte, 1)
	for b.Loop() {
		w.Write(ctx, bufs(p))
		r.Read(ctx, bufs(p))
	}
}
