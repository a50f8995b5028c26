package vsock

import "sync"

// maxRefusals is how many refusals wait for a guest that takes none. One that
// exceeds it asks for connections faster than it looks at our answers.
const maxRefusals = 1024

// ready is what waits for the guest's buffers: connections that have something
// to say, in turn, and answers to packets that belong to none.
type ready struct {
	mu       sync.Mutex
	changed  *sync.Cond
	conns    []*conn // each once: conn.queued
	refusals []header
	running  bool
	held     bool // the guest is to get none of it for now
}

func (r *ready) init() { r.changed = sync.NewCond(&r.mu) }

// push puts c at the end of the line, if it does not stand there.
func (r *ready) push(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.queued {
		return
	}
	c.queued = true
	r.conns = append(r.conns, c)
	r.changed.Signal()
}

// refuse is false if there are too many.
func (r *ready) refuse(h header) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.refusals) == maxRefusals {
		return false
	}
	r.refusals = append(r.refusals, h)
	r.changed.Signal()
	return true
}

// pop is what is next, a connection or a refusal.
func (r *ready) pop() (refusal header, c *conn, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return header{}, nil, false
	}
	if len(r.refusals) > 0 {
		refusal, r.refusals = r.refusals[0], r.refusals[1:]
		return refusal, nil, true
	}
	if len(r.conns) == 0 {
		return header{}, nil, false
	}
	c = r.conns[0]
	r.conns[0] = nil
	r.conns = r.conns[1:]
	c.queued = false
	return header{}, c, true
}

func (r *ready) any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.anyLocked()
}

func (r *ready) anyLocked() bool { return !r.held && len(r.conns)+len(r.refusals) > 0 }

// wait waits until there is something, and is false once stopped.
func (r *ready) wait() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.running && !r.anyLocked() {
		r.changed.Wait()
	}
	return r.running
}

func (r *ready) start() { r.set(true) }
func (r *ready) stop()  { r.set(false) }

func (r *ready) set(running bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = running
	r.changed.Broadcast()
}

// hold keeps everything back until release. Both tell whether that is news.
func (r *ready) hold() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	news := !r.held
	r.held = true
	return news
}

func (r *ready) release() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	news := r.held
	r.held = false
	r.changed.Broadcast()
	return news
}

// clear forgets all, and that it is held.
func (r *ready) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = false
	for _, c := range r.conns {
		c.queued = false
	}
	r.conns, r.refusals = nil, nil
}
