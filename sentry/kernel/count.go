package kernel

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
