package kvm

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// BenchmarkShootdown takes a page away that was just read, by the vCPU that is out
// or waits in the stub, or that another one is reading all the time.
func BenchmarkShootdown(b *testing.B) {
	for _, whole := range []bool{false, true} {
		name := "touch"
		if whole {
			name = "flush"
		}
		for _, busy := range []bool{false, true} {
			name := name + map[bool]string{true: "/other running"}[busy]
			b.Run(name, func(b *testing.B) {
				w := newWorld(b)
				w.text(touch...)
				page, keep := w.pages(1), w.pages(1)
				w.show(dataAt, page, rw)
				w.show(dataAt+0x10000, keep, rw)
				r := w.reader()
				if busy {
					stop := w.spin(dataAt + 0x10000)
					defer stop()
				}
				best := time.Hour
				for b.Loop() {
					w.show(dataAt, page, rw)
					if !r.sees(dataAt) {
						b.Fatal("not seen")
					}
					t := time.Now()
					if whole {
						s := shootdown{as: w.as, whole: true}
						w.check(s.done())
					} else {
						w.check(w.as.Unmap(dataAt, pageSize))
					}
					best = min(best, time.Since(t))
				}
				b.ReportMetric(float64(best.Nanoseconds()), "least-ns")
				r.th.Close()
			})
		}
	}
}

// spin runs a second thread that reads va in a loop.
func (w *world) spin(va platform.Addr) (stop func()) {
	code := w.pages(1)
	copy(code, []byte{0x8a, 0x07, 0xeb, 0xfc}) // mov al,[rdi]; jmp
	w.show(textAt+0x10000, code, rx)
	th := w.thread()
	c := start()
	c.Rip, c.Rdi = textAt+0x10000, uint64(va)
	done := make(chan struct{})
	go func() {
		defer close(done)
		th.Run(c, w.as)
		th.Close()
	}()
	return func() {
		th.Interrupt()
		<-done
	}
}

// BenchmarkFault is a fault, its page mapped, and the access done again.
func BenchmarkFault(b *testing.B) {
	w := newWorld(b)
	// mov al,[rdi]; add rdi,4096; jmp
	w.text(0x8a, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xeb, 0xf5)
	page := w.pages(1)
	page[0] = 1
	th := w.thread()
	c := start()
	c.Rdi = 0x1000_0000_0000
	least(b, func() {
		ev, err := th.Run(c, w.as)
		if err != nil || ev.Reason != platform.Fault {
			b.Fatal(ev, err)
		}
		w.show(ev.Addr, page, rw)
	})
	th.Close()
}

// BenchmarkFirstTouch touches pages that are mapped ahead; an operation is 2 MiB.
func BenchmarkFirstTouch(b *testing.B) {
	for _, how := range []string{"4K", "4K/populated", "2M"} {
		huge := how == "2M"
		b.Run(how, func(b *testing.B) {
			w := newWorld(b)
			// mov byte [rdi],1; add rdi,4096; dec rcx; jnz; syscall
			w.text(0xc6, 0x07, 0x01, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xf1, 0x0f, 0x05)
			w.used = hugeSize
			if !huge {
				w.used += pageSize
			}
			if huge {
				unix.Madvise(w.arena, unix.MADV_HUGEPAGE)
			} else {
				unix.Madvise(w.arena, unix.MADV_NOHUGEPAGE)
			}
			const n = 2 << 20 / pageSize
			host := w.pages(n)
			th := w.thread()
			c := start()
			best := time.Hour
			for b.Loop() {
				unix.Madvise(host, unix.MADV_DONTNEED)
				if how == "4K/populated" {
					w.check(unix.Madvise(host, unix.MADV_POPULATE_WRITE))
				}
				w.show(0x1000_0000_0000, host, rw)
				c.Rip, c.Rdi, c.Rcx, c.Dirty = textAt, 0x1000_0000_0000, n, platform.DirtyAll
				t := time.Now()
				if ev, err := th.Run(c, w.as); err != nil || ev.Reason != platform.Syscall {
					b.Fatal(ev, err)
				}
				best = min(best, time.Since(t))
			}
			b.ReportMetric(float64(best.Nanoseconds())/n, "least-ns/page")
			th.Close()
		})
	}
}

// BenchmarkUnmapInCall takes a page away in the middle of a call that no exit
// served: the vCPU waits in the stub.
func BenchmarkUnmapInCall(b *testing.B) {
	// mov eax,110; syscall; mov al,[rdi]; jmp
	w, _ := patched(b, 0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0x8a, 0x07, 0xeb, 0xf5)
	page := w.pages(1)
	page[0] = 1
	w.show(dataAt+0x10000, page, rw)
	th := w.thread()
	c := start()
	c.Rdi = dataAt + 0x10000
	for range 20 {
		w.call(th, c, 110)
	}
	var least [3]time.Duration
	least[0], least[1], least[2] = time.Hour, time.Hour, time.Hour
	inCall := 0
	for b.Loop() {
		t0 := time.Now()
		w.call(th, c, 110)
		t1 := time.Now()
		if th.crewed {
			inCall++
		}
		w.check(w.as.Unmap(dataAt+0x10000, pageSize))
		t2 := time.Now()
		w.show(dataAt+0x10000, page, rw)
		t3 := time.Now()
		if th.crewed {
			least[0], least[1], least[2] = min(least[0], t1.Sub(t0)), min(least[1], t2.Sub(t1)), min(least[2], t3.Sub(t2))
		}
	}
	b.ReportMetric(float64(least[0].Nanoseconds()), "least-call-ns")
	b.ReportMetric(float64(least[1].Nanoseconds()), "least-unmap-ns")
	b.ReportMetric(float64(least[2].Nanoseconds()), "least-map-ns")
	b.ReportMetric(float64(inCall)/float64(b.N), "hot")
	th.Close()
}
