package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	words "bulkhead/vmm/config"
	"bulkhead/vmm/machine"
)

// times is when what was reached, from the start of the program on.
type times struct {
	began time.Time

	mu    sync.Mutex
	marks []mark
}

// mark is a line of --timing.
type mark struct {
	What string  `json:"what"`
	MS   float64 `json:"ms"`
}

func newTimes(began time.Time) *times { return &times{began: began} }

func (t *times) mark(what string) { t.markAt(what, time.Now()) }

func (t *times) markAt(what string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marks = append(t.marks, mark{what, float64(at.Sub(t.began).Microseconds()) / 1000})
}

// ended is what --json prints.
type ended struct {
	Began  int64  `json:"began_unix_us"`
	Timing []mark `json:"timing"`
	Reason string `json:"reason,omitempty"`
	Code   int    `json:"code"`
	Error  string `json:"error,omitempty"`
}

// print tells the times and, as JSON, the ending, on stderr: stdout is the guest's.
func (t *times) print(m *words.Machine, e machine.Ending, err error) {
	if !m.Timing && !m.JSON {
		return
	}
	t.mark("ended")
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.marks, func(a, b mark) int { return cmp.Compare(a.MS, b.MS) })
	if m.JSON {
		out := ended{Began: t.began.UnixMicro(), Timing: t.marks, Reason: e.Reason.String(), Code: e.Code()}
		if err == nil {
			err = e.Err
		} else {
			out.Code = failed
		}
		if err != nil {
			out.Error = err.Error()
		}
		// A closed stderr has nobody to tell.
		_ = json.NewEncoder(os.Stderr).Encode(out)
		return
	}
	for _, l := range t.marks {
		fmt.Fprintf(os.Stderr, "vmm: %10.3f ms  %s\n", l.MS, l.What)
	}
}
