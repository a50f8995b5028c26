package cost

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/hwtest/guest"
	"bulkhead/kvm"
)

// counting reads the page at Scratch and counts in the next, for ever.
// again: mov al,[rdi]; inc dword [rdi+4096]; jmp again
var counting = []byte{0x8a, 0x07, 0xff, 0x87, 0, 0x10, 0, 0, 0xeb, 0xf6}

// running lets a guest count while f looks at it, and ends it by a kick, the
// cost of which it returns.
func running(b *bench, f func(*guest.Machine) error) (kick float64, err error) {
	_, err = machine(b, guest.Options{}, 3, counting, func(m *guest.Machine, w *guest.Watch) ([]float64, error) {
		var end time.Time
		ended := make(chan error, 1)
		go func() {
			exit, err := w.Run()
			end = time.Now()
			if !errors.Is(err, guest.ErrLate) {
				err = errors.Join(err, fmt.Errorf("a counting guest left by %v", exit))
			} else {
				err = nil
			}
			ended <- err
		}()
		err := f(m)
		begin := time.Now()
		w.Kick()
		err = errors.Join(err, <-ended)
		kick = float64(end.Sub(begin).Nanoseconds())
		return nil, err
	})
	return kick, err
}

// advances waits until the guest has counted on twice: what it read before the
// first time it may have read before the caller's last deed.
func advances(count *atomic.Uint32) bool {
	deadline := time.Now().Add(patience)
	for at := count.Load(); count.Load()-at < 2; {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func kicks(b *bench) ([]float64, error) {
	var samples []float64
	for begin := time.Now(); len(samples) < few || len(samples) < 20 && time.Since(begin) < b.budget; {
		took, err := running(b, func(m *guest.Machine) error {
			if !advances(word(m.Mem, guest.Scratch+kvm.PageSize)) {
				return errors.New("the guest does not run")
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		samples = append(samples, took)
	}
	return samples, nil
}

// wakes has a guest halt, and rings it. The next round begins when the guest's
// CPU is in KVM_RUN again; whether it has halted by then is the processor's
// business, as it is in a guest that idles.
func wakes(b *bench) ([]float64, error) {
	m, err := guest.New(b.sys, guest.Options{Chips: true})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	irq, err := m.Interruptible(guest.HaltLoop...)
	if err != nil {
		return nil, err
	}
	defer unix.Close(irq)
	w := guest.Within(m.CPU, patience)
	defer w.Stop()
	var begin time.Time
	ring, rung := make(chan struct{}), make(chan error, 1)
	defer close(ring)
	go func() {
		for range ring {
			for until := time.Now().Add(50 * time.Microsecond); time.Now().Before(until); { // the guest gets into its halt
			}
			begin = time.Now()
			_, err := unix.Write(irq, []byte{1, 0, 0, 0, 0, 0, 0, 0})
			rung <- err
		}
	}()
	var samples []float64
	for start := time.Now(); len(samples) < few || len(samples) < 100 && time.Since(start) < b.budget; {
		ring <- struct{}{}
		if err := w.Port(guest.InterruptPort); err != nil {
			return nil, err
		}
		end := time.Now()
		if err := <-rung; err != nil {
			return nil, fmt.Errorf("write to the irqfd: %w", err)
		}
		samples = append(samples, float64(end.Sub(begin).Nanoseconds()))
	}
	return samples, nil
}
