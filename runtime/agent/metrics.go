package agent

import (
	"context"
	"runtime/metrics"
)

// Metering is a Handler that counts what it does. All counters begin at 0 with the
// sandbox and grow.
type Metering interface {
	Metrics(ctx context.Context, container string) (*Metrics, error)
}

// Metrics is what a sandbox has counted. Calls and errors go by number, so that
// nothing that a container could choose becomes a name at the other end.
type Metrics struct {
	Stats

	// Machine says that a Linux of its own runs the container, which tells Stats: of what
	// follows up to the process's own nothing is known.
	Machine bool `json:"machine,omitempty"`

	ByCall  []CallCount    `json:"byCall,omitempty"`
	ByErrno map[int]uint64 `json:"byErrno,omitempty"` // of failed calls

	ArenaFree uint64 `json:"arenaFree"` // bytes: kept for re-use
	TextCache uint64 `json:"textCache"` // bytes, of Memory: copies of files that run
	Windows   uint64 `json:"windows"`   // bytes of the host's files that are mapped; the host's cache, not ours

	Groups      uint64 `json:"groups"`      // processes, zombies included
	Descriptors uint64 `json:"descriptors"` // open, of all tables
	Started     uint64 `json:"started"`     // processes
	Cloned      uint64 `json:"cloned"`      // tasks
	Execs       uint64 `json:"execs"`
	EndedZero   uint64 `json:"endedZero"` // processes, by how they ended
	EndedFailed uint64 `json:"endedFailed"`
	EndedSignal uint64 `json:"endedSignal"`
	EndedCore   uint64 `json:"endedCore"`

	// Of the sandbox's process itself.
	Goroutines uint64 `json:"goroutines"`
	GoHeap     uint64 `json:"goHeap"`  // bytes of objects, dead ones too
	GoTotal    uint64 `json:"goTotal"` // bytes that the Go runtime has of the host
	GoCycles   uint64 `json:"goCycles"`

	Platform []PlatformCounter `json:"platform,omitempty"`
}

// CallCount is how a system call, by its number, was answered; -1 stands for numbers
// that Linux does not have.
type CallCount struct {
	Number      int    `json:"nr"`
	Done        uint64 `json:"done,omitempty"`
	Failed      uint64 `json:"failed,omitempty"`
	Interrupted uint64 `json:"interrupted,omitempty"`
}

// PlatformCounter is a figure of the platform's; there are some dozen.
type PlatformCounter struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
	Level bool   `json:"level,omitempty"` // it may fall
}

// ReadGo fills in what Go's runtime says of this process, which it is not stopped for.
func (m *Metrics) ReadGo() {
	at := []*uint64{&m.Goroutines, &m.GoHeap, &m.GoTotal, &m.GoCycles}
	samples := []metrics.Sample{{Name: "/sched/goroutines:goroutines"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/total:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(samples)
	for i, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			*at[i] = s.Value.Uint64()
		}
	}
}
