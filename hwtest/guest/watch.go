package guest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"bulkhead/kvm"
)

// ErrLate is a guest that had to be kicked.
var ErrLate = errors.New("guest: it did not come back in time")

// Watch runs a CPU for so long and no longer.
type Watch struct {
	c     *kvm.VCPU
	timer *time.Timer

	mu   sync.Mutex
	late bool
	done bool // no Kick may follow the CPU's Close
}

// Within begins a time in which c may run; Stop ends it.
func Within(c *kvm.VCPU, d time.Duration) *Watch {
	w := &Watch{c: c}
	w.timer = time.AfterFunc(d, w.kick)
	return w
}

func (w *Watch) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.late = true
		w.c.Kick()
	}
}

// Kick ends the time now.
func (w *Watch) Kick() { w.kick() }

// Run goes on over the signals of Go's runtime until the guest exits by itself.
func (w *Watch) Run() (kvm.Exit, error) {
	for {
		exit, err := w.c.Run()
		if err != nil || exit != kvm.ExitInterrupted {
			return exit, err
		}
		w.mu.Lock()
		late := w.late
		w.mu.Unlock()
		if late {
			return exit, ErrLate
		}
	}
}

// Stop comes before the CPU's Close.
func (w *Watch) Stop() {
	w.timer.Stop()
	w.mu.Lock()
	w.done = true
	w.mu.Unlock()
}

// Port runs c until it writes to a port, and fails if that is not want.
func (w *Watch) Port(want uint16) error {
	exit, err := w.Run()
	if err != nil {
		return err
	}
	if exit != kvm.ExitIO || w.c.IO().Port != want {
		return fmt.Errorf("guest: want a write to port %#x, got: %s", want, describe(w.c, exit))
	}
	return nil
}

// exceptions by vector, as the manuals name them.
var exceptions = [Vectors]string{0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF",
	10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XM", 21: "#CP"}

// describe says in a few words why c is out.
func describe(c *kvm.VCPU, exit kvm.Exit) string {
	switch exit {
	case kvm.ExitInternalError:
		e := c.InternalError()
		if e.Suberror == 1 {
			return fmt.Sprintf("KVM cannot emulate it (% x …)", e.Insn[:min(4, len(e.Insn))])
		}
		return fmt.Sprintf("KVM internal error %d", e.Suberror)
	case kvm.ExitIO:
		port := c.IO().Port
		if port == DonePort {
			return "it came to its end"
		}
		if v := int(port) - FaultPort; v >= 0 && v < Vectors {
			if exceptions[v] != "" {
				return "exception " + exceptions[v]
			}
			return fmt.Sprintf("vector %d", v)
		}
		return fmt.Sprintf("port %#x", port)
	case kvm.ExitShutdown:
		return "triple fault"
	case kvm.ExitFailEntry:
		return fmt.Sprintf("the processor refuses to enter (%#x)", c.FailEntry())
	}
	return exit.String()
}
