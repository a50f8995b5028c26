package machine

import "fmt"

// Reason is why a guest ended.
type Reason int

const (
	PowerOff    Reason = 1 + iota // the guest switched itself off
	Reset                         // it asked for a reset: reboot, or a panic
	TripleFault                   // it could not deliver an exception
	Stopped                       // its owner ended it
	TimedOut                      // its time was over
	Saved                         // it lives on in a snapshot
	Hung                          // it was taken for dead by whoever watches it
	Broken                        // KVM could not go on, or a part of ours failed
)

// reasons has the words, and the exit code of `vmm boot`. They lie apart from
// those of shells and of timeout(1), but for 124, which is its own.
var reasons = map[Reason]struct {
	words string
	code  int
}{
	PowerOff:    {"powered off", 0},
	Reset:       {"reset", 100},
	TripleFault: {"triple fault", 101},
	Broken:      {"broken", 102},
	Stopped:     {"stopped", 103},
	Hung:        {"hung", 104},
	TimedOut:    {"timed out", 124},
	Saved:       {"saved in a snapshot", 0},
}

func (r Reason) String() string { return reasons[r].words }

// Ending is why a guest ended.
type Ending struct {
	Reason Reason
	Status int   // what the guest's command ended with; of PowerOff
	Err    error // more of it, of Broken
}

// Code is the exit code that tells it.
func (e Ending) Code() int {
	if e.Reason == PowerOff {
		return e.Status
	}
	return reasons[e.Reason].code
}

func (e Ending) String() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("%v: %v", e.Reason, e.Err)
	case e.Status != 0:
		return fmt.Sprintf("%v with status %d", e.Reason, e.Status)
	}
	return e.Reason.String()
}
