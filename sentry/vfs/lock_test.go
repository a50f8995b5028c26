package vfs_test

import (
	"fmt"
	"math"
	"math/rand"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	. "bulkhead/sentry/vfs"
)

// TestLocksLikeLinux sets, drops and asks for random locks on a file of Linux's
// and one of ours. Owners are open file descriptions, for which Linux has the
// same code as for processes.
func TestLocksLikeLinux(t *testing.T) {
	for seed := range int64(40) {
		r := rand.New(rand.NewSource(seed))
		w := newWorld(t)
		w.do("touch /f")
		name := t.TempDir() + "/f"
		var fds []int
		var ds []*Description
		for i := range 4 {
			fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			d, err := Open(ctx, w.start(), "/f", OpenHow{Flags: unix.O_RDWR})
			if err != nil {
				t.Fatal(err)
			}
			fds, ds = append(fds, fd), append(ds, d)
			_ = i
		}
		for step := range 300 {
			i := r.Intn(len(fds))
			var what, got, want string
			switch k := r.Intn(5); k {
			case 0:
				op := []int{unix.LOCK_SH, unix.LOCK_EX, unix.LOCK_UN}[r.Intn(3)]
				what = fmt.Sprintf("flock %d by %d", op, i)
				want = fmt.Sprint(unix.Flock(fds[i], op|unix.LOCK_NB))
				got = fmt.Sprint(Flock(ds[i], op|unix.LOCK_NB, 1))
			default:
				typ := []int16{unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK}[r.Intn(3)]
				start, n := int64(r.Intn(20)), int64(r.Intn(6)) // n 0: to the end
				end := start + n - 1
				if n == 0 {
					end = math.MaxInt64
				}
				fl := unix.Flock_t{Type: typ, Start: start, Len: n}
				l := Lock{Type: typ, Start: start, End: end, Owner: ds[i], PID: -1}
				if k == 1 && typ != unix.F_UNLCK {
					what = fmt.Sprintf("get %v by %d", l, i)
					a := unix.FcntlFlock(uintptr(fds[i]), unix.F_OFD_GETLK, &fl)
					g, b := GetLock(ds[i], l)
					glen := g.End - g.Start + 1
					if g.End == math.MaxInt64 {
						glen = 0
					}
					want = fmt.Sprint(a, fl.Type, fl.Start, fl.Len)
					got = fmt.Sprint(b, g.Type, g.Start, glen)
					break
				}
				what = fmt.Sprintf("set %v by %d", l, i)
				want = fmt.Sprint(unix.FcntlFlock(uintptr(fds[i]), unix.F_OFD_SETLK, &fl))
				got = fmt.Sprint(SetLock(ds[i], l, false))
			}
			if got != want {
				t.Fatalf("seed %d, step %d, %s: got %s, Linux %s", seed, step, what, got, want)
			}
		}
		for i := range fds {
			unix.Close(fds[i])
			ds[i].Unref()
		}
		os.Remove(name)
	}
}

func TestDeadlock(t *testing.T) {
	w := newWorld(t)
	w.do("touch /f")
	d, err := Open(ctx, w.start(), "/f", OpenHow{Flags: unix.O_RDWR})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Unref()
	lock := func(owner string, at int64, want error) {
		t.Helper()
		if err := SetLock(d, Lock{Type: unix.F_WRLCK, Start: at, End: at, Owner: owner}, true); err != want {
			t.Errorf("%s locks %d: %v, want %v", owner, at, err, want)
		}
	}
	lock("a", 1, nil)
	lock("b", 2, nil)
	lock("c", 3, nil)
	lock("a", 2, unix.EAGAIN) // waits for b
	lock("b", 3, unix.EAGAIN) // waits for c
	lock("c", 1, unix.EDEADLK)
	ForgetLock("a") // gave up
	lock("c", 1, unix.EAGAIN)
}

// TestLockWakes: an unlock and a close tell who waits.
func TestLockWakes(t *testing.T) {
	w := newWorld(t)
	w.do("touch /f")
	open := func() *Description {
		d, err := Open(ctx, w.start(), "/f", OpenHow{Flags: unix.O_RDWR})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a, b := open(), open()
	c := make(chan struct{}, 1)
	waiter := NewWaiter(EventOut, c)
	LockQueue(b).Add(waiter)
	defer LockQueue(b).Remove(waiter)

	table := NewFDTable()
	fd, err := table.Install(a, 0, false, 10)
	if err != nil {
		t.Fatal(err)
	}
	all := Lock{Type: unix.F_WRLCK, End: math.MaxInt64, Owner: table}
	if err := SetLock(a, all, false); err != nil {
		t.Fatal(err)
	}
	all.Owner = "other"
	if err := SetLock(b, all, true); err != unix.EAGAIN {
		t.Fatalf("a second lock: %v", err)
	}
	table.Close(fd) // though a is still open
	<-c
	if err := SetLock(b, all, true); err != nil {
		t.Errorf("after the close: %v", err)
	}
	if err := Flock(a, unix.LOCK_EX, 1); err != nil {
		t.Fatal(err)
	}
	if err := Flock(b, unix.LOCK_SH, 1); err != unix.EAGAIN {
		t.Fatalf("a second flock: %v", err)
	}
	a.Unref()
	<-c
	if err := Flock(b, unix.LOCK_SH, 1); err != nil {
		t.Errorf("after the last close: %v", err)
	}
	b.Unref()
	table.Unref()
}
