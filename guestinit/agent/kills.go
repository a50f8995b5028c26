package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// killWatch hears that a group's memory.events has changed, which is by a "file modified
// event" (Documentation/admin-guide/cgroup-v2.rst, memory.events): inotify(7) tells of it
// by a descriptor that needs no thread to wait for it.
type killWatch struct {
	from *os.File
	done sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed at the next change, and another one then
}

func watchKills(group string) (*killWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("control group: watch: %w", err)
	}
	w := &killWatch{from: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{})}
	_, err = unix.InotifyAddWatch(fd, group+"/memory.events", unix.IN_MODIFY)
	if err != nil && !errors.Is(err, unix.ENOENT) { // a kernel without that controller has nothing to tell
		w.from.Close()
		return nil, fmt.Errorf("control group: watch: %w", err)
	}
	w.done.Go(w.follow)
	return w, nil
}

// follow ends with the descriptor.
func (w *killWatch) follow() {
	b := make([]byte, 4096) // what the events say is all the same
	for {
		if _, err := w.from.Read(b); err != nil {
			return
		}
		w.mu.Lock()
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
	}
}

// next is closed when something has changed since.
func (w *killWatch) next() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *killWatch) close() {
	if w != nil {
		w.from.Close()
		w.done.Wait()
	}
}

func (s *server) OOMKills(ctx context.Context, r *rpc.OOMKillsRequest) (*rpc.OOMKillsResponse, error) {
	c, err := s.find(r.Container)
	if err != nil {
		return nil, rpc.Refuse(err)
	}
	for {
		changed := c.group.kills.next() // before it is looked
		n := c.group.oomKills()
		if n > r.Above {
			return &rpc.OOMKillsResponse{Kills: n}, nil
		}
		select {
		case <-changed:
		case <-c.init.ended:
			return &rpc.OOMKillsResponse{Kills: max(n, c.init.kills)}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
