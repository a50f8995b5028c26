package virtiotest

import "sync"

// Bell is a doorbell that knows whether somebody sleeps at it.
type Bell struct {
	mu       sync.Mutex
	changed  *sync.Cond
	rung     bool
	sleepers int
	dead     bool // nobody will come
}

// NewBell is a Bell that has not been rung.
func NewBell() *Bell {
	b := &Bell{}
	b.changed = sync.NewCond(&b.mu)
	return b
}

// Wait implements virtio.Doorbell.
func (b *Bell) Wait() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sleepers++
	b.changed.Broadcast()
	for !b.rung {
		b.changed.Wait()
	}
	b.rung = false
	b.sleepers--
	return nil
}

// Ring implements virtio.Doorbell.
func (b *Bell) Ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rung = true
	b.changed.Broadcast()
}

// AwaitSleep waits until the device sleeps here and every ring was heard, or
// until it has failed.
func (b *Bell) AwaitSleep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for (b.rung || b.sleepers == 0) && !b.dead {
		b.changed.Wait()
	}
}

// giveUp ends AwaitSleep, for the device has failed.
func (b *Bell) giveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = true
	b.changed.Broadcast()
}
