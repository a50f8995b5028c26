package machine

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"bulkhead/kvm"
)

// runCPU is a vCPU's life. KVM is quicker when a vCPU stays on one thread
// (virt/kvm/kvm_main.c, kvm_vcpu_ioctl: synchronize_rcu).
func (m *Machine) runCPU(c *kvm.VCPU) {
	defer m.running.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	first := c.ID() == 0
	for m.gate.pass() {
		if first {
			first = false
			m.since = time.Now()
			close(m.entered)
		}
		if e, over := m.stretch(c); over {
			m.gate.end(e)
			return
		}
	}
}

// stretch runs c until it is interrupted, or the guest is over.
func (m *Machine) stretch(c *kvm.VCPU) (Ending, bool) {
	exits := &m.counters.exits[c.ID()]
	var look atomic.Uint32
	for {
		exit, err := c.Run()
		if err != nil {
			return Ending{Reason: Broken, Err: err}, true
		}
		exits.Add(1)
		m.anchor.yield(&look)
		switch exit {
		case kvm.ExitInterrupted:
			return Ending{}, false
		case kvm.ExitIO:
			m.port(c.IO())
		case kvm.ExitMMIO:
			m.access(c.MMIO())
		case kvm.ExitAgain: // an application processor that waits for its SIPI
		default:
			return ending(c, exit), true
		}
	}
}

// port serves each item of a string instruction on its own.
func (m *Machine) port(x kvm.IO) {
	for d := x.Data; len(d) >= x.Size && x.Size > 0; d = d[x.Size:] {
		claimed := false
		if x.In {
			claimed = m.ports.Read(uint64(x.Port), d[:x.Size])
		} else {
			claimed = m.ports.Write(uint64(x.Port), d[:x.Size])
		}
		if !claimed {
			m.counters.unclaimed.Add(1)
		}
	}
}

func (m *Machine) access(x kvm.MMIO) {
	claimed := false
	if x.Write {
		claimed = m.mmio.Write(uint64(x.Addr), x.Data)
	} else {
		claimed = m.mmio.Read(uint64(x.Addr), x.Data)
	}
	if !claimed {
		m.counters.unclaimed.Add(1)
	}
}

// Types of kvm.ExitSystemEvent (api.rst, KVM_SYSTEM_EVENT_…).
const (
	eventShutdown = 1
	eventReset    = 2
)

// ending is what an exit that nobody can serve means.
func ending(c *kvm.VCPU, exit kvm.Exit) Ending {
	var err error
	switch exit {
	case kvm.ExitShutdown:
		return Ending{Reason: TripleFault}
	case kvm.ExitSystemEvent:
		kind, _ := c.SystemEvent()
		switch kind {
		case eventShutdown:
			return Ending{Reason: PowerOff}
		case eventReset:
			return Ending{Reason: Reset}
		}
		err = fmt.Errorf("system event %d", kind)
	case kvm.ExitInternalError:
		err = c.InternalError()
	case kvm.ExitFailEntry:
		err = fmt.Errorf("the processor refuses to enter the guest, reason %#x", c.FailEntry())
	default:
		err = fmt.Errorf("exit %v", exit)
	}
	if r, e := c.Regs(); e == nil {
		err = fmt.Errorf("vcpu %d at %#x: %w", c.ID(), r.RIP, err)
	}
	return Ending{Reason: Broken, Err: err}
}
