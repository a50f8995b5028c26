// Package epoll is epoll(7) (fs/eventpoll.c).
//
// Lock order: nest, Epoll.mu of the outer before the inner, the watched file's
// locks, its Queue.mu, Epoll.readyMu. A file tells its Queue, the Queue the item,
// the item Epoll.queue: that nests as the epolls do, which never form a circle.
package epoll

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// maxNests is how deep epolls may watch each other (EP_MAX_NESTS).
const maxNests = 4

// Bits of an event that are not events.
const (
	private   = unix.EPOLLET | unix.EPOLLONESHOT | unix.EPOLLEXCLUSIVE | unix.EPOLLWAKEUP
	exclusive = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLERR | unix.EPOLLHUP | unix.EPOLLWAKEUP | unix.EPOLLET | unix.EPOLLEXCLUSIVE
)

// nest guards which epoll watches which.
var nest sync.Mutex

// Epoll is an interest list and a ready list.
type Epoll struct {
	vfs.NoFile

	mu    sync.Mutex
	items map[key]*item
	outer map[*Epoll]int // who watches this one, how often; guarded by nest
	above atomic.Int32   // the sum of outer

	readyMu sync.Mutex
	ready   []*item

	queue vfs.Queue
}

type key struct {
	fd int
	d  *vfs.Description
}

// item is a watched file.
type item struct {
	key
	ep     *Epoll
	event  unix.EpollEvent // guarded by ep.mu
	waiter vfs.Waiter
	cancel func()

	queued bool // in ep.ready; guarded by ep.readyMu
	armed  bool // not disabled by EPOLLONESHOT; guarded by ep.readyMu
}

// New makes an epoll.
func New() *vfs.Description {
	return vfs.NewAnonymous(&Epoll{items: make(map[key]*item)}, "anon_inode:[eventpoll]", unix.O_RDWR)
}

// mask is what the item's file is asked for.
func (i *item) mask() vfs.Events {
	return vfs.Events(i.event.Events)&^private | vfs.EventErr | vfs.EventHup
}

// Ctl is epoll_ctl(2) on the file that fd refers to.
func (ep *Epoll) Ctl(op, fd int, d *vfs.Description, event unix.EpollEvent) error {
	if d.Flags()&unix.O_PATH != 0 {
		return unix.EBADF
	}
	inner, _ := d.File().(*Epoll)
	switch {
	case d.Queue() == nil:
		return unix.EPERM
	case inner == ep:
		return unix.EINVAL
	case op != unix.EPOLL_CTL_DEL && event.Events&unix.EPOLLEXCLUSIVE != 0 &&
		(op == unix.EPOLL_CTL_MOD || inner != nil || event.Events&^exclusive != 0):
		return unix.EINVAL
	}
	k := key{fd, d}
	switch op {
	case unix.EPOLL_CTL_ADD:
		if inner != nil {
			nest.Lock()
			defer nest.Unlock()
			if inner.reaches(ep, 0) || inner.depth()+ep.height() > maxNests {
				return unix.ELOOP
			}
		}
		return ep.add(k, event, inner)
	case unix.EPOLL_CTL_MOD:
		return ep.modify(k, event)
	case unix.EPOLL_CTL_DEL:
		return ep.remove(k)
	}
	return unix.EINVAL
}

// inners are the epolls that ep watches.
func (ep *Epoll) inners() (list []*Epoll) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	for k := range ep.items {
		if e, ok := k.d.File().(*Epoll); ok {
			list = append(list, e)
		}
	}
	return list
}

// reaches reports whether ep is target or watches it, through others or not.
func (ep *Epoll) reaches(target *Epoll, n int) bool {
	if ep == target {
		return true
	}
	for _, e := range ep.inners() {
		if n <= maxNests && e.reaches(target, n+1) {
			return true
		}
	}
	return false
}

// depth is the longest chain from ep down, itself included.
func (ep *Epoll) depth() (n int) {
	for _, e := range ep.inners() {
		n = max(n, e.depth())
	}
	return n + 1
}

// height is the longest chain from ep up, itself not included.
func (ep *Epoll) height() (n int) {
	for e := range ep.outer {
		n = max(n, e.height()+1)
	}
	return n
}

func (ep *Epoll) add(k key, event unix.EpollEvent, inner *Epoll) error {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.items[k] != nil {
		return unix.EEXIST
	}
	i := &item{key: k, ep: ep, event: event, armed: true}
	i.waiter.Notify, i.waiter.Passed = i.notify, ep.unwaited
	ep.items[k] = i
	i.cancel = k.d.OnRelease(func() { ep.remove(k) })
	if inner != nil {
		if inner.outer == nil {
			inner.outer = make(map[*Epoll]int)
		}
		inner.outer[ep]++
		inner.above.Add(1)
	}
	i.start()
	return nil
}

// start begins to listen and looks at what is ready already.
func (i *item) start() {
	i.waiter.Mask = i.mask()
	i.waiter.Exclusive = i.event.Events&unix.EPOLLEXCLUSIVE != 0
	q := i.d.Queue()
	q.Add(&i.waiter)
	i.ep.readyMu.Lock()
	queued := i.queued // somebody has been told (ep_modify)
	i.ep.readyMu.Unlock()
	if e := i.d.Ready(i.mask()); e != 0 && !queued {
		i.notify(e)
	}
}

func (ep *Epoll) modify(k key, event unix.EpollEvent) error {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	i := ep.items[k]
	if i == nil {
		return unix.ENOENT
	}
	if i.event.Events&unix.EPOLLEXCLUSIVE != 0 {
		return unix.EINVAL
	}
	i.d.Queue().Remove(&i.waiter)
	ep.readyMu.Lock()
	i.armed = true
	ep.readyMu.Unlock()
	i.event = event
	i.start()
	return nil
}

// remove is EPOLL_CTL_DEL, and what happens when the file is released.
func (ep *Epoll) remove(k key) error {
	if _, ok := k.d.File().(*Epoll); ok {
		nest.Lock()
		defer nest.Unlock()
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	i := ep.items[k]
	if i == nil {
		return unix.ENOENT
	}
	delete(ep.items, k)
	ep.dropLocked(i)
	return nil
}

// dropLocked ends i, which is no longer in items. If i is an epoll, nest is held.
func (ep *Epoll) dropLocked(i *item) {
	i.cancel()
	i.d.Queue().Remove(&i.waiter)
	ep.readyMu.Lock()
	i.armed = false // Collect throws it away
	ep.readyMu.Unlock()
	if inner, ok := i.d.File().(*Epoll); ok {
		inner.above.Add(-1)
		if inner.outer[ep]--; inner.outer[ep] <= 0 {
			delete(inner.outer, ep)
		}
	}
}

// notify is called by the file's Queue.
func (i *item) notify(e vfs.Events) {
	ep := i.ep
	ep.readyMu.Lock()
	if !i.armed {
		ep.readyMu.Unlock()
		return
	}
	if !i.queued {
		i.queued = true
		ep.ready = append(ep.ready, i)
	}
	ep.readyMu.Unlock()
	ep.queue.Notify(vfs.EventIn)
}

// unwaited reports whether no epoll_wait sleeps; other epolls do not count
// (ep_poll_callback's ewake).
func (ep *Epoll) unwaited() bool { return ep.queue.Waiters() <= int(ep.above.Load()) }

// Collected are events that epoll_wait(2) is to hand out.
type Collected struct {
	Events []unix.EpollEvent
	ep     *Epoll
	items  []*item // of the events
}

// Collect is epoll_wait(2) without the wait: up to most of what is ready.
func (ep *Epoll) Collect(most int) Collected {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.readyMu.Lock()
	list := ep.ready
	ep.ready = nil
	ep.readyMu.Unlock()
	most = min(most, len(list)) // what the caller has room for may be far more
	c := Collected{make([]unix.EpollEvent, 0, most), ep, make([]*item, 0, most)}
	var again []*item // level-triggered ones, behind those not looked at
	for len(c.Events) < most && len(list) > 0 {
		i := list[0]
		list = list[1:]
		// Not queued from here on: what happens after the look below queues it again.
		if !ep.unqueue(i) {
			continue
		}
		e := i.d.Ready(i.mask()) & i.mask()
		if e == 0 {
			continue
		}
		event := i.event
		event.Events = uint32(e)
		c.Events, c.items = append(c.Events, event), append(c.items, i)
		switch {
		case i.event.Events&unix.EPOLLONESHOT != 0:
			ep.readyMu.Lock()
			i.armed = false
			ep.readyMu.Unlock()
		case i.event.Events&unix.EPOLLET == 0:
			again = append(again, i)
		}
	}
	ep.requeue(list, again)
	return c
}

// PutBack makes the events from the one at index first on be as if they had not been
// collected, since the program's memory would not take them: an edge or a one-shot
// event comes no second time (fs/eventpoll.c, ep_send_events).
func (c Collected) PutBack(first int) {
	ep := c.ep
	ep.mu.Lock()
	var back []*item
	for _, i := range c.items[first:] {
		if ep.items[i.key] != i {
			continue // removed meanwhile
		}
		ep.readyMu.Lock()
		i.armed = true
		if !i.queued {
			i.queued = true
			back = append(back, i)
		}
		ep.readyMu.Unlock()
	}
	ep.requeue(back, nil)
	ep.mu.Unlock()
	ep.queue.Notify(vfs.EventIn)
}

// unqueue takes i off the ready list, and says whether it counts.
func (ep *Epoll) unqueue(i *item) bool {
	ep.readyMu.Lock()
	defer ep.readyMu.Unlock()
	i.queued = false
	return i.armed
}

// requeue puts list, which is still marked as queued, in front of the ready list
// and again behind.
func (ep *Epoll) requeue(list, again []*item) {
	ep.readyMu.Lock()
	defer ep.readyMu.Unlock()
	ep.ready = append(list, ep.ready...)
	for _, i := range again {
		if !i.queued {
			i.queued = true
			ep.ready = append(ep.ready, i)
		}
	}
}

// Ready implements vfs.File: an epoll is readable when Collect would find
// something.
func (ep *Epoll) Ready(mask vfs.Events) vfs.Events {
	if mask&vfs.EventIn == 0 {
		return 0
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.readyMu.Lock()
	list := ep.ready
	ep.ready = nil
	ep.readyMu.Unlock()
	for len(list) > 0 {
		i := list[0]
		ep.readyMu.Lock()
		i.queued = false
		armed := i.armed
		ep.readyMu.Unlock()
		if armed && i.d.Ready(i.mask())&i.mask() != 0 {
			ep.readyMu.Lock()
			switch {
			case i.queued: // told meanwhile: it is in ep.ready
				list = list[1:]
			default:
				i.queued = true
			}
			ep.readyMu.Unlock()
			ep.requeue(list, nil)
			return vfs.EventIn
		}
		list = list[1:]
	}
	return 0
}

// Queue implements vfs.File.
func (ep *Epoll) Queue() *vfs.Queue { return &ep.queue }

// Release implements vfs.File.
func (ep *Epoll) Release() {
	nest.Lock()
	defer nest.Unlock()
	ep.mu.Lock()
	defer ep.mu.Unlock()
	for k, i := range ep.items {
		delete(ep.items, k)
		ep.dropLocked(i)
	}
}

// Watched are the descriptor numbers watched and their events, for
// /proc/PID/fdinfo.
func (ep *Epoll) Watched() map[int]unix.EpollEvent {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	out := make(map[int]unix.EpollEvent, len(ep.items))
	for k, i := range ep.items {
		out[k.fd] = i.event
	}
	return out
}

// Target is the file watched under descriptor number fd, of several the one at index nth
// in some order; unix.ENOENT if there is none. It is for comparing alone.
func (ep *Epoll) Target(fd, nth int) (*vfs.Description, error) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	for k := range ep.items {
		if k.fd != fd {
			continue
		}
		if nth == 0 {
			return k.d, nil
		}
		nth--
	}
	return nil, unix.ENOENT
}
