package virtiotest

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Bell is a doorbell that knows whether somebody sleeps at it in Wait.
type Bell struct {
	mu       sync.Mutex
	changed  *sync.Cond
	rung     bool
	sleepers int
	dead     bool // nobody will come
	event    int  // an eventfd that says that it rang, for who polls; or -1
	count    [8]byte
}

// NewBell is a Bell that has not been rung.
func NewBell() *Bell {
	b := &Bell{event: -1}
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
	b.signal()
	b.changed.Broadcast()
}

// Descriptor implements virtio.Pollable.
func (b *Bell) Descriptor() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.event < 0 {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			panic(err) // the test is out of descriptors
		}
		b.event = fd
		if b.rung {
			b.signal()
		}
	}
	return b.event
}

// one is an eventfd's count.
var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func (b *Bell) signal() {
	if b.event >= 0 {
		unix.Write(b.event, one)
	}
}

// Hear implements virtio.Pollable.
func (b *Bell) Hear() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rung = false
	_, err := unix.Read(b.event, b.count[:])
	return err
}

// Close gives the descriptor back; nobody polls any more.
func (b *Bell) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.event >= 0 {
		unix.Close(b.event)
		b.event = -1
	}
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
