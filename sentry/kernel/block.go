package kernel

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Results of system calls that a signal interrupted (include/linux/errno.h).
// They never reach the application: delivery turns them into EINTR or into the
// call again.
const (
	ERESTARTSYS           = unix.Errno(512) // again, if the handler has SA_RESTART
	ERESTARTNOINTR        = unix.Errno(513) // again, always
	ERESTARTNOHAND        = unix.Errno(514) // again, if no handler ran
	ERESTART_RESTARTBLOCK = unix.Errno(516) // again by restart_syscall(2), if no handler ran
)

var sleeping = "sleeping"

// Block waits for c. It returns ERESTARTSYS if a signal arrived first; the
// caller chooses another of the restart errors if Linux does for that call.
func (t *Task) Block(c <-chan struct{}) error {
	_, err := t.block(c, nil)
	return err
}

// BlockUntil waits for c, or until the monotonic deadline (0 for none). On the
// deadline it returns ETIMEDOUT.
func (t *Task) BlockUntil(c <-chan struct{}, deadline time.Duration) error {
	if deadline == 0 {
		return t.Block(c)
	}
	left := deadline - t.k.Clock.Monotonic()
	if left <= 0 {
		select {
		case <-c:
			return nil
		default:
			return unix.ETIMEDOUT
		}
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	timedOut, err := t.block(c, timer.C)
	if timedOut {
		return unix.ETIMEDOUT
	}
	return err
}

func (t *Task) block(c <-chan struct{}, timeout <-chan time.Time) (timedOut bool, err error) {
	select {
	case <-c:
		return false, nil
	default:
	}
	if t.tryOnly {
		return false, EWOULDWAIT
	}
	if t.waiter != nil {
		t.waiter.Waiting()
	}
	t.voluntary.Add(1)
	t.account(&t.sys)
	t.blockedIn.Store(&sleeping)
	defer func() {
		t.blockedIn.Store(nil)
		t.entered.Store(int64(t.k.Clock.forCPUTime()))
	}()
	for {
		if t.Interrupted() {
			return false, ERESTARTSYS
		}
		select {
		case <-c:
			return false, nil
		case <-timeout:
			return true, nil
		case <-t.interrupt:
		}
	}
}

// Waiter makes a waiter that sends to c, of capacity one, for BlockOn.
func (t *Task) Waiter(mask vfs.Events, c chan struct{}) *vfs.Waiter {
	w := vfs.NewWaiter(mask, c)
	if send := w.Notify; t.sleeper.Load() != nil {
		w.Notify = func(e vfs.Events) {
			send(e)
			t.rouse()
		}
	}
	return w
}

// rouse ends t's BlockOn. Whatever it waits for has happened before.
func (t *Task) rouse() {
	if s := t.sleeper.Load(); s != nil {
		(*s).Wake()
	}
}

// BlockOn is BlockUntil for a channel whose senders rouse t (or for none). Where
// the platform's threads are OS threads it lets that one sleep (platform.Sleeper).
func (t *Task) BlockOn(c <-chan struct{}, deadline time.Duration) error {
	s := t.sleeper.Load()
	if s == nil || t.spawned || t.tryOnly {
		t.spawned = false // the new task's goroutine may be queued behind ours
		return t.BlockUntil(c, deadline)
	}
	select {
	case <-c:
		return nil
	default:
	}
	t.voluntary.Add(1)
	t.account(&t.sys)
	t.blockedIn.Store(&sleeping)
	defer func() {
		t.blockedIn.Store(nil)
		t.entered.Store(int64(t.k.Clock.forCPUTime()))
	}()
	for {
		if t.Interrupted() {
			return ERESTARTSYS
		}
		select {
		case <-c:
			return nil
		case <-t.interrupt:
			continue
		default:
		}
		left := time.Duration(-1)
		if deadline != 0 {
			if left = deadline - t.k.Clock.Monotonic(); left <= 0 {
				return unix.ETIMEDOUT
			}
		}
		(*s).Sleep(left)
	}
}

// Interrupted reports whether a signal is to be delivered, or the task killed.
func (t *Task) Interrupted() bool {
	if t.work.Load() == 0 {
		return false
	}
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	return t.killed || t.trappedLocked() || t.deliverableLocked() != 0
}

// Wait calls try until it returns something else than EAGAIN, sleeping on q for
// mask in between. deadline is monotonic, 0 for none; on it the result is
// ETIMEDOUT. With nonblock it tries once.
func (t *Task) Wait(q *vfs.Queue, mask vfs.Events, nonblock bool, deadline time.Duration, try func() error) error {
	err := try()
	if err != unix.EAGAIN || nonblock || q == nil {
		return err
	}
	c := make(chan struct{}, 1)
	w := t.Waiter(mask, c)
	q.Add(w)
	defer q.Remove(w)
	for {
		if err = try(); err != unix.EAGAIN {
			return err
		}
		if err = t.BlockOn(c, deadline); err != nil {
			return err
		}
	}
}

// WaitKillable waits until done is closed; only a signal that kills ends it before
// (TASK_KILLABLE): unix.EINTR.
func (t *Task) WaitKillable(done <-chan struct{}) error {
	for {
		err := t.BlockUntil(done, 0)
		if err == nil || err == EWOULDWAIT {
			return err
		}
		t.k.mu.Lock()
		killed := t.killed
		t.k.mu.Unlock()
		if killed {
			return unix.EINTR
		}
		select { // other signals wait, too
		case <-done:
			return nil
		case <-t.interrupt:
		}
	}
}
