package ptrace

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper is the word that a thread sleeps on: what has happened since it last
// looked. Sleep sets idle and asleep, Wake sets woken.
type sleeper struct{ word atomic.Uint32 }

const (
	asleep = 0 // what futexWait compares with
	woken  = 1
	idle   = 2 // neither
)

// Sleep implements platform.Sleeper. Whatever was woken for happened before the
// word is idle again, and so the caller sees it when he looks.
func (t *Thread) Sleep(timeout time.Duration) {
	t.p.cpus.sleeps(t)
	w := &t.sleeper.word
	if w.CompareAndSwap(idle, asleep) {
		if timeout < 0 {
			futexWait(w, nil)
		} else {
			ts := unix.NsecToTimespec(int64(timeout))
			futexWait(w, &ts)
		}
	}
	w.Store(idle)
}

// Wake implements platform.Sleeper.
func (t *Thread) Wake() {
	if t.sleeper.word.Swap(woken) == asleep {
		t.p.cpus.wakes(t)
		futexWake(&t.sleeper.word)
	}
}
