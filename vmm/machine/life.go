package machine

import (
	"errors"
)

// Start begins to run what Boot or Restore put there.
func (m *Machine) Start() error {
	m.control.Lock()
	defer m.control.Unlock()
	if m.stage != ready {
		return errors.New("machine: start: it has nothing to run, or runs already")
	}
	m.stage, m.paused = live, true
	m.gate.admit(m.cpus)
	for _, c := range m.cpus {
		m.running.Add(1)
		go m.runCPU(c)
	}
	return m.resumeLocked()
}

// liveLocked tells a machine that has not begun from one that has ended. control is held.
func (m *Machine) liveLocked() error {
	switch m.stage {
	case live:
		return nil
	case closed:
		return ErrEnded
	}
	return errors.New("machine: it has not been started")
}

// Pause stops vCPUs, then devices; in this order nothing new is asked of them.
// When it returns nothing of the guest moves.
func (m *Machine) Pause() error {
	m.control.Lock()
	defer m.control.Unlock()
	return m.pauseLocked()
}

func (m *Machine) pauseLocked() error {
	if err := m.liveLocked(); err != nil || m.paused {
		return err
	}
	if err := m.gate.shut(); err != nil {
		return err
	}
	m.paused = true
	for _, s := range m.slots {
		s.pause()
	}
	return nil
}

// Resume lets a paused machine go on.
func (m *Machine) Resume() error {
	m.control.Lock()
	defer m.control.Unlock()
	if err := m.liveLocked(); err != nil || !m.paused { // a request to a vCPU that runs would wait until it stops
		return err
	}
	for _, c := range m.cpus {
		// EINVAL: a guest without kvmclock, whose watchdogs nobody can calm.
		_ = c.Paused()
	}
	return m.resumeLocked()
}

func (m *Machine) resumeLocked() error {
	for _, s := range m.slots {
		s.resume()
	}
	m.paused = false
	return m.gate.unshut()
}
