package cost

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/hwtest/guest"
	"bulkhead/kvm"
)

// Where ring 3's pages are seen and where they lie.
const (
	viewAt  = 0x4000_0000
	pdpt    = 0x3008 // its entry for viewAt
	backing = 2 << 20
	huge    = 2 << 20
)

// view maps size bytes at viewAt to guest memory from backing on; present says
// whether the entries are there already.
func view(m *guest.Machine, size int, large, present bool) {
	m.Put(pdpt, guest.PageTable|7)
	for i := range size / huge {
		at := uint64(backing + i*huge)
		if large {
			m.Put(guest.PageTable+8*i, at|0x87)
			continue
		}
		table := guest.PageTable + kvm.PageSize*(1+i)
		m.Put(guest.PageTable+8*i, uint64(table)|7)
		for j := range 512 {
			if present {
				m.Put(table+8*j, at+uint64(j*kvm.PageSize)|7)
			}
		}
	}
}

// faults of ring 3 are answered as the sentry answers them: entry written, on.
func faults(b *bench) ([]float64, error) {
	const size = 2 * huge
	// mov al,[rdi]; add rdi,4096; jmp
	code := []byte{0x8a, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xeb, 0xf5}
	return machine(b, guest.Options{Size: backing + size}, 3, code, func(m *guest.Machine, w *guest.Watch) ([]float64, error) {
		view(m, size, false, false)
		m.Gate(14, 0xe6, guest.FaultPort+14, 0x48, 0x83, 0xc4, 8, 0x48, 0xcf) // out; add rsp,8; iretq
		r, err := m.CPU.Regs()
		if err != nil {
			return nil, err
		}
		r.RDI = viewAt
		if err := m.CPU.SetRegs(&r); err != nil {
			return nil, err
		}
		m.CPU.KeepSynced(kvm.SyncRegs | kvm.SyncSregs)
		if err := w.Port(guest.FaultPort + 14); err != nil { // the first finds everything cold
			return nil, err
		}
		n := 0
		return b.each(size/kvm.PageSize-1, func() error {
			_, s, _ := m.CPU.Synced()
			if want := uint64(viewAt + n*kvm.PageSize); s.CR2 != want {
				return fmt.Errorf("a fault at %#x, want %#x", s.CR2, want)
			}
			m.Put(guest.PageTable+kvm.PageSize+8*n, uint64(backing+n*kvm.PageSize)|7)
			n++
			return w.Port(guest.FaultPort + 14)
		})
	})
}

// touched is how much memory is touched for a sample.
const touched = 8 << 20 // bytes

// touches has each page of it written to once, in ring 3.
func touches(large bool) func(*bench) ([]float64, error) {
	const size = touched
	advice := unix.MADV_NOHUGEPAGE
	if large {
		advice = unix.MADV_HUGEPAGE
	}
	return func(b *bench) ([]float64, error) {
		// again: mov rdi,rsi; mov ebx,pages; next: mov byte [rdi],1; add rdi,4096; dec ebx; jnz next; out DonePort,al; jmp again
		code := []byte{0x48, 0x89, 0xf7, 0xbb, size / kvm.PageSize & 0xff, size / kvm.PageSize >> 8, 0, 0,
			0xc6, 0x07, 1, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xcb, 0x75, 0xf2, 0xe6, guest.DonePort, 0xeb, 0xe6}
		return machine(b, guest.Options{Size: backing + size}, 3, code, func(m *guest.Machine, w *guest.Watch) ([]float64, error) {
			view(m, size, large, true)
			r, err := m.CPU.Regs()
			if err != nil {
				return nil, err
			}
			r.RSI = viewAt
			if err := m.CPU.SetRegs(&r); err != nil {
				return nil, err
			}
			area := m.Mem[backing:]
			if err := unix.Madvise(area, advice); err != nil {
				return nil, fmt.Errorf("madvise: %w", err)
			}
			return b.untouched(area, toDone(w))
		})
	}
}

// untouched times f, which touches each page of area, on fresh pages each time.
func (b *bench) untouched(area []byte, f func() error) ([]float64, error) {
	var samples []float64
	for begin := time.Now(); len(samples) < 10 && (len(samples) < few || time.Since(begin) < b.budget); {
		if err := unix.Madvise(area, unix.MADV_DONTNEED); err != nil {
			return nil, fmt.Errorf("madvise: %w", err)
		}
		start := time.Now()
		if err := f(); err != nil {
			return nil, err
		}
		samples = append(samples, float64(time.Since(start).Nanoseconds())/float64(len(area)/kvm.PageSize))
	}
	return samples, nil
}

func nativeTouches(advice int) func(*bench) ([]float64, error) {
	return func(b *bench) ([]float64, error) {
		area, err := unix.Mmap(-1, 0, touched, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, fmt.Errorf("map: %w", err)
		}
		defer unix.Munmap(area)
		if err := unix.Madvise(area, advice); err != nil {
			return nil, fmt.Errorf("madvise: %w", err)
		}
		return b.untouched(area, func() error {
			for at := 0; at < len(area); at += os.Getpagesize() {
				area[at] = 1
			}
			return nil
		})
	}
}

// shootdowns waits between two until the guest has read the page again.
func shootdowns(b *bench) ([]float64, error) {
	const counter = guest.Scratch + kvm.PageSize
	var samples []float64
	_, err := running(b, func(m *guest.Machine) error {
		page := m.Mem[guest.Scratch : guest.Scratch+kvm.PageSize]
		count := word(m.Mem, counter)
		for end := time.Now().Add(b.budget); len(samples) < few || len(samples) < 100 && time.Now().Before(end); {
			if !advances(count) {
				return errors.New("the guest does not run")
			}
			begin := time.Now()
			if err := unix.Madvise(page, unix.MADV_DONTNEED); err != nil {
				return fmt.Errorf("madvise: %w", err)
			}
			samples = append(samples, float64(time.Since(begin).Nanoseconds()))
		}
		return nil
	})
	return samples, err
}
