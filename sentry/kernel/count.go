package kernel

import "time"

// EndKind is how a process ended.
type EndKind int

const (
	EndedZero   EndKind = iota // exit(0)
	EndedFailed                // exit of anything else
	EndedSignal                // by a signal
	EndedDumped                // and left a core file
	EndKinds
)

func (e EndKind) String() string { return [...]string{"zero", "nonzero", "signal", "core"}[e] }

// countEnd takes a wait status.
func (k *Kernel) countEnd(status int32) {
	kind := EndedZero
	switch code, value := endOf(status); {
	case code == 3:
		kind = EndedDumped
	case code == 2:
		kind = EndedSignal
	case value != 0:
		kind = EndedFailed
	}
	k.Ends[kind].Add(1)
}

// CPUTime is that of all tasks, the living and those that have ended. It does not go back.
func (k *Kernel) CPUTime() (user, sys time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	user, sys = k.endedCPU[0], k.endedCPU[1]
	for _, p := range k.root.ids {
		if t := p.task; t != nil && t.state != taskDead {
			u, s := t.CPUTime()
			user, sys = user+u, sys+s
		}
	}
	return user, sys
}
