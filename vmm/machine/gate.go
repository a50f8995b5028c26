package machine

import (
	"errors"
	"fmt"
	"sync"

	"bulkhead/kvm"
)

// ErrEnded means that the guest is gone.
var ErrEnded = errors.New("machine: the guest has ended")

// gate is where vCPUs stop. Before each stretch in the guest they pass it; whoever
// shuts it kicks them out of the guest and waits until all stand before it.
//
// A vCPU comes to the gate only after Run said Interrupted: by then KVM has
// finished the port or MMIO access that was under way, and the registers are
// whole (api.rst, KVM_RUN).
type gate struct {
	done chan struct{} // closed by end

	mu     sync.Mutex
	moved  sync.Cond // anything below changed
	cpus   []*kvm.VCPU
	open   bool
	parked int
	ended  bool
	ending Ending // set before done is closed, and never again
}

func (g *gate) init() {
	g.done = make(chan struct{})
	g.moved.L = &g.mu
}

// admit names the vCPUs that will come to the gate, which is shut.
func (g *gate) admit(cpus []*kvm.VCPU) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cpus = cpus
}

// forget lets go of them: they are about to be closed.
func (g *gate) forget() { g.admit(nil) }

// pass waits while the gate is shut. It answers false when the guest has ended.
func (g *gate) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open && !g.ended {
		g.parked++
		g.moved.Broadcast()
		for !g.open && !g.ended {
			g.moved.Wait()
		}
		g.parked--
	}
	return !g.ended
}

// shut returns when every vCPU is out of the guest.
func (g *gate) shut() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = false
	g.kickLocked()
	for g.parked < len(g.cpus) && !g.ended {
		g.moved.Wait()
	}
	if g.ended {
		return g.endedLocked()
	}
	return nil
}

// unshut lets them go on.
func (g *gate) unshut() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return g.endedLocked()
	}
	g.open = true
	g.moved.Broadcast()
	return nil
}

// endedLocked is ErrEnded and why, for whoever came too late.
func (g *gate) endedLocked() error { return fmt.Errorf("%w: %v", ErrEnded, g.ending) }

// end ends the guest; the first to say why is heard.
func (g *gate) end(e Ending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return
	}
	g.ended, g.ending = true, e
	close(g.done)
	g.kickLocked()
	g.moved.Broadcast()
}

// kickLocked ends every Run under way, and each that is about to begin. A vCPU
// looks at the gate after it.
func (g *gate) kickLocked() {
	for _, c := range g.cpus {
		c.Kick()
	}
}
