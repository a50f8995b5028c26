package agent

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Starving is a Handler that tells of programs that were killed for want of memory.
// OOM writes to to how many of the container's were so far, a decimal number a line: at once,
// which says that it listens, and each time that there are more. It returns when ctx ends,
// or when nothing more will come. All that there was before a container's end is written
// before Wait answers, and before the sandbox's process ends.
type Starving interface {
	OOM(ctx context.Context, container string, to *os.File) error
}

// Kills counts the programs of a container that were killed for want of memory, and tells
// who listens. The zero value counts none yet.
//
// Its lock is a leaf, and nobody waits with it held: what a listener has no room for it
// learns by the next number that it has room for.
type Kills struct {
	mu    sync.Mutex
	n     uint64
	ended bool
	// listeners are closed when they are told nothing more.
	listeners map[*os.File]chan struct{}
}

// Report says that there were n so far; one that is late, and says less, changes nothing.
// All who listen have been told when it returns.
func (k *Kills) Report(n uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n <= k.n || k.ended {
		return
	}
	k.n = n
	for f := range k.listeners {
		k.tellLocked(f)
	}
}

// End says that there will be no more.
func (k *Kills) End() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	for f := range k.listeners {
		k.dropLocked(f)
	}
}

// Tell is Starving's OOM, of one container.
func (k *Kills) Tell(ctx context.Context, to *os.File) error {
	raw, err := to.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetNonblock(int(fd), true) })
		if cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	over := make(chan struct{})
	k.mu.Lock()
	if k.listeners == nil {
		k.listeners = map[*os.File]chan struct{}{}
	}
	k.listeners[to] = over
	k.tellLocked(to)
	if k.ended {
		k.dropLocked(to)
	}
	k.mu.Unlock()
	select {
	case <-over:
	case <-ctx.Done():
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropLocked(to)
	return nil
}

func (k *Kills) tellLocked(to *os.File) {
	raw, err := to.SyscallConn()
	if err == nil {
		line := append(strconv.AppendUint(nil, k.n, 10), '\n') // less than PIPE_BUF: whole, or not at all
		cerr := raw.Control(func(fd uintptr) { _, err = unix.Write(int(fd), line) })
		if cerr != nil {
			err = cerr
		}
	}
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		k.dropLocked(to) // nobody reads
	}
}

func (k *Kills) dropLocked(f *os.File) {
	if over := k.listeners[f]; over != nil {
		delete(k.listeners, f)
		close(over)
	}
}
