package epoll

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/eventfd"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

var ctx = vfs.SentryContext()

func of(d *vfs.Description) *Epoll { return d.File().(*Epoll) }

// TestLikeLinux does random operations on epolls and eventfds of Linux's and of
// ours, with level, edge, one-shot and nested interest.
func TestLikeLinux(t *testing.T) {
	const eps, evs = 4, 5 // numbers 0..3 are epolls, 4..8 eventfds
	for seed := range int64(150) {
		r := rand.New(rand.NewSource(seed))
		var fds []int
		var ds []*vfs.Description
		for i := range eps + evs {
			if i < eps {
				fd, err := unix.EpollCreate1(0)
				if err != nil {
					t.Fatal(err)
				}
				fds, ds = append(fds, fd), append(ds, New())
				continue
			}
			fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
			if err != nil {
				t.Fatal(err)
			}
			fds, ds = append(fds, fd), append(ds, eventfd.New(0, unix.EFD_NONBLOCK))
		}
		var history []string
		for range 300 {
			ep, target := r.Intn(eps), r.Intn(eps+evs)
			var what, got, want string
			switch r.Intn(4) {
			case 0:
				op := 1 + r.Intn(3)
				ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(target)}
				for _, e := range []uint32{unix.EPOLLOUT, unix.EPOLLET, unix.EPOLLONESHOT, unix.EPOLLEXCLUSIVE} {
					if r.Intn(4) == 0 {
						ev.Events |= e
					}
				}
				what = fmt.Sprintf("ctl %d on %d, %d, events %#x", op, ep, target, ev.Events)
				want = fmt.Sprint(unix.EpollCtl(fds[ep], op, fds[target], &ev))
				got = fmt.Sprint(of(ds[ep]).Ctl(op, fds[target], ds[target], ev))
			case 1:
				what = fmt.Sprintf("wait %d", ep)
				a := make([]unix.EpollEvent, 10)
				an, _ := unix.EpollWait(fds[ep], a[:10], 0)
				want, got = tell(a[:max(an, 0)]), tell(of(ds[ep]).Collect(10).Events)
			case 2:
				i := eps + r.Intn(evs)
				what = fmt.Sprintf("write %d", i)
				one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
				_, a := unix.Write(fds[i], one)
				_, b := ds[i].Write(ctx, memory.Buffers{one})
				want, got = fmt.Sprint(a), fmt.Sprint(b)
			case 3:
				i := eps + r.Intn(evs)
				what = fmt.Sprintf("read %d", i)
				var x, y [8]byte
				_, a := unix.Read(fds[i], x[:])
				_, b := ds[i].Read(ctx, memory.Buffers{y[:]})
				want, got = fmt.Sprint(a, x), fmt.Sprint(b, y)
			}
			history = append(history, what+": "+want)
			if got != want {
				for _, h := range history {
					t.Log(h)
				}
				t.Fatalf("seed %d, %s:\nLinux  %s\nSentry %s", seed, what, want, got)
			}
		}
		for i := range fds {
			unix.Close(fds[i])
			ds[i].Unref()
		}
	}
}

func tell(events []unix.EpollEvent) string {
	var s []string
	for _, e := range events {
		s = append(s, fmt.Sprintf("%d:%#x", e.Fd, e.Events))
	}
	slices.Sort(s)
	return fmt.Sprint(s)
}

func TestReleaseOfWatched(t *testing.T) {
	ep, ev := New(), eventfd.New(1, 0)
	if err := of(ep).Ctl(unix.EPOLL_CTL_ADD, 5, ev, unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		t.Fatal(err)
	}
	ev.Unref()
	if n := len(of(ep).Collect(1).Events); n != 0 || len(of(ep).Watched()) != 0 {
		t.Fatalf("%d events of a closed file, watching %v", n, of(ep).Watched())
	}
	ep.Unref()
}

// TestWake: a waiter on the outer epoll hears of the innermost file.
func TestWake(t *testing.T) {
	outer, inner, ev := New(), New(), eventfd.New(0, 0)
	of(outer).Ctl(unix.EPOLL_CTL_ADD, 1, inner, unix.EpollEvent{Events: unix.EPOLLIN})
	of(inner).Ctl(unix.EPOLL_CTL_ADD, 2, ev, unix.EpollEvent{Events: unix.EPOLLIN})
	c := make(chan struct{}, 1)
	outer.Queue().Add(vfs.NewWaiter(vfs.EventIn, c))
	ev.Write(ctx, memory.Buffers{[]byte{1, 0, 0, 0, 0, 0, 0, 0}})
	<-c
	if n := len(of(outer).Collect(1).Events); n != 1 {
		t.Fatalf("%d events", n)
	}
	for _, d := range []*vfs.Description{outer, inner, ev} {
		d.Unref()
	}
}

func BenchmarkWait(b *testing.B) {
	ep, ev := New(), eventfd.New(1, 0)
	of(ep).Ctl(unix.EPOLL_CTL_ADD, 5, ev, unix.EpollEvent{Events: unix.EPOLLIN})
	for b.Loop() {
		of(ep).Collect(8)
	}
}
