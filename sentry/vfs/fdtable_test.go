package vfs_test

import (
	"maps"
	"math/rand"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	. "bulkhead/sentry/vfs"
)

// counted is a File that counts its releases.
type counted struct {
	NoFile
	n *int
}

func (c counted) Release() { *c.n++ }

// TestFDTable does random operations on a table and on a map.
func TestFDTable(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	table := NewFDTable()
	type slot struct {
		d       *Description
		cloexec bool
	}
	model := map[int]slot{}
	opened, released := 0, 0
	lowest := func(min int) int {
		for {
			if _, ok := model[min]; !ok {
				return min
			}
			min++
		}
	}
	const limit = 300
	for range 20000 {
		fd, cloexec := r.Intn(limit+20)-5, r.Intn(3) == 0
		switch r.Intn(10) {
		case 0, 1, 2, 3:
			opened++
			d := NewAnonymous(counted{n: &released}, "x", 0)
			min := max(0, fd*r.Intn(2))
			got, err := table.Install(d, min, cloexec, limit)
			switch want := lowest(min); {
			case min >= limit && min > 0:
				if err != unix.EINVAL {
					t.Fatalf("install from %d: %v", min, err)
				}
			case want >= limit:
				if err != unix.EMFILE {
					t.Fatalf("install from %d in a full table: %d %v", min, got, err)
				}
			case got != want || err != nil:
				t.Fatalf("install from %d: %d %v, want %d", min, got, err, want)
			default:
				model[got] = slot{d, cloexec}
			}
			d.Unref()
		case 4:
			_, ok := model[fd]
			delete(model, fd)
			if err := table.Close(fd); (err == nil) != ok {
				t.Fatalf("close %d: %v, open %v", fd, err, ok)
			}
		case 5:
			to := r.Intn(limit)
			s, ok := model[fd]
			err := table.Dup3(fd, to, cloexec, limit)
			if (err == nil) != (ok && fd != to) {
				t.Fatalf("dup3 %d to %d: %v", fd, to, err)
			}
			if err == nil {
				model[to] = slot{s.d, cloexec}
			}
		case 6:
			d, err := table.Get(fd)
			if s, ok := model[fd]; (err == nil) != ok || d != s.d {
				t.Fatalf("get %d: %p %v", fd, d, err)
			}
			if err == nil {
				d.Unref()
			}
		case 7:
			if err := table.SetCloexec(fd, cloexec); err == nil {
				model[fd] = slot{model[fd].d, cloexec}
			}
		case 8:
			on, err := table.Cloexec(fd)
			if s, ok := model[fd]; (err == nil) != ok || on != s.cloexec {
				t.Fatalf("cloexec of %d: %v %v", fd, on, err)
			}
		case 9:
			if r.Intn(50) == 0 {
				c := table.Clone()
				c.CloseOnExec()
				maps.DeleteFunc(model, func(_ int, s slot) bool { return s.cloexec })
				table.Unref()
				table = c
			} else if r.Intn(20) == 0 && fd >= 0 {
				table.CloseRange(fd, fd+10)
				maps.DeleteFunc(model, func(n int, _ slot) bool { return n >= fd && n <= fd+10 })
			}
		}
		if want := slices.Sorted(maps.Keys(model)); !slices.Equal(table.FDs(), want) {
			t.Fatalf("open are %v, want %v", table.FDs(), want)
		}
	}
	table.Unref()
	if opened != released {
		t.Errorf("%d opened, %d released", opened, released)
	}
}

// TestGetWhileClosing: what Get returns is never a released description.
func TestGetWhileClosing(t *testing.T) {
	table := NewFDTable()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 20000 {
				if d, err := table.Get(0); err == nil {
					if d.Flags() != unix.O_RDWR {
						t.Error("something else")
					}
					d.Unref()
				}
			}
		})
	}
	var n int
	for range 20000 {
		d := NewAnonymous(counted{n: new(int)}, "x", unix.O_RDWR)
		if _, err := table.Install(d, 0, false, 10); err != nil {
			t.Fatal(err)
		}
		d.Unref()
		table.Close(0)
		n++
	}
	wg.Wait()
}

func BenchmarkGet(b *testing.B) {
	table := NewFDTable()
	d := NewAnonymous(counted{n: new(int)}, "x", 0)
	table.Install(d, 0, false, 10)
	for b.Loop() {
		d, _ := table.Get(0)
		d.Unref()
	}
}
