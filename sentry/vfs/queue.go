package vfs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Events are poll(2)'s.
type Events uint32

const (
	EventIn    Events = unix.POLLIN
	EventPri   Events = unix.POLLPRI
	EventOut   Events = unix.POLLOUT
	EventErr   Events = unix.POLLERR
	EventHup   Events = unix.POLLHUP
	EventNval  Events = unix.POLLNVAL
	EventRdHup Events = unix.POLLRDHUP

	// POLLRDNORM and POLLWRNORM, which come with EventIn and EventOut. No File needs
	// to know them.
	EventRdNorm Events = 0x40
	EventWrNorm Events = 0x100
)

// normal is what comes with events, ordinary what it comes with.
func normal(events Events) (e Events) {
	if events&EventIn != 0 {
		e |= EventRdNorm
	}
	if events&EventOut != 0 {
		e |= EventWrNorm
	}
	return e
}

func ordinary(events Events) (e Events) {
	if events&EventRdNorm != 0 {
		e |= EventIn
	}
	if events&EventWrNorm != 0 {
		e |= EventOut
	}
	return e
}

// Waiter hears of events in a Queue. Notify is called with Queue.mu held: it
// must not block nor call the Queue, and does little more than wake somebody.
type Waiter struct {
	Mask   Events
	Notify func(Events)
	// Exclusive asks that one such waiter be told per Notify (EPOLLEXCLUSIVE, accept).
	Exclusive bool
	// Passed, if set, says after Notify that nobody was woken, so that the next
	// exclusive waiter is told too (an epoll that nobody waits for).
	Passed func() bool

	prev, next *Waiter
	queue      *Queue
}

// NewWaiter makes a Waiter that sends to a channel of capacity one.
func NewWaiter(mask Events, c chan struct{}) *Waiter {
	return &Waiter{Mask: mask, Notify: func(Events) {
		select {
		case c <- struct{}{}:
		default:
		}
	}}
}

// Queue holds who waits for a file. The zero value is ready.
type Queue struct {
	n    atomic.Int32 // waiters; lets Notify of an unwatched file cost one load
	mu   sync.Mutex
	head Waiter // of a ring, used from the first Add on
}

// Add puts w into q. Look at Ready after Add, not before.
func (q *Queue) Add(w *Waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head.next == nil {
		q.head.next, q.head.prev = &q.head, &q.head
	}
	w.prev, w.next, w.queue = q.head.prev, &q.head, q
	w.prev.next, q.head.prev = w, w
	q.n.Add(1)
}

// Remove takes w out; it may be out already.
func (q *Queue) Remove(w *Waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.queue != q {
		return
	}
	w.prev.next, w.next.prev = w.next, w.prev
	w.prev, w.next, w.queue = nil, nil, nil
	q.n.Add(-1)
}

// Notify tells everybody who asked for one of events; EventErr and EventHup are
// always asked for.
func (q *Queue) Notify(events Events) {
	if q.n.Load() == 0 {
		return
	}
	events |= normal(events)
	q.mu.Lock()
	defer q.mu.Unlock()
	told := false
	for w := q.head.next; w != nil && w != &q.head; w = w.next {
		if events&(w.Mask|EventErr|EventHup) == 0 || w.Exclusive && told {
			continue
		}
		w.Notify(events)
		told = told || w.Exclusive && (w.Passed == nil || !w.Passed())
	}
}

// Waiters is how many there are.
func (q *Queue) Waiters() int { return int(q.n.Load()) }
