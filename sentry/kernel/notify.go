package kernel

import (
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/bpf"
	"bulkhead/sentry/vfs"
)

// Listener is the descriptor of SECCOMP_FILTER_FLAG_NEW_LISTENER: a supervisor
// takes calls from it that a filter does not decide, and answers them.
type Listener struct {
	vfs.NoFile
	filter   *Filter
	killable bool // a call that was taken is not interrupted by signals

	mu     sync.Mutex
	calls  []*notified // in the order in which they came
	nextID uint64
	closed bool
	queue  vfs.Queue
}

// notified is a call that waits for its answer.
type notified struct {
	id    uint64
	task  *Task
	data  bpf.Data
	state uint8
	reply NotifyReply
	done  chan struct{}
}

const (
	notifyInit = iota
	notifySent
	notifyReplied
)

// NotifyReply is struct seccomp_notif_resp without the id.
type NotifyReply struct {
	Value    int64
	Error    int32 // negative
	Continue bool
}

// NewListener makes one; killable is SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
func NewListener(killable bool) *Listener { return &Listener{killable: killable, nextID: 1} }

// notifySupervisor hands a call to whoever listens. It reports whether the call is to be
// made after all.
func (t *Task) notifySupervisor(l *Listener, d *bpf.Data) bool {
	c := t.Context()
	c.Rax = errnoReg(unix.ENOSYS)
	if l == nil {
		return false
	}
	n := &notified{task: t, data: *d, done: make(chan struct{})}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	n.id = l.nextID
	l.nextID++
	l.calls = append(l.calls, n)
	l.mu.Unlock()
	l.queue.Notify(vfs.EventIn)
	err := l.await(t, n)
	l.remove(n)
	switch {
	case err != nil:
		c.Rax = errnoReg(err.(unix.Errno))
		return false
	case n.reply.Continue:
		return true
	case n.reply.Error != 0:
		c.Rax = uint64(int64(n.reply.Error))
	default:
		c.Rax = uint64(n.reply.Value)
	}
	return false
}

// await waits for the answer to n.
func (l *Listener) await(t *Task, n *notified) error {
	for {
		err := t.BlockUntil(n.done, 0)
		if err == nil {
			return nil
		}
		l.mu.Lock()
		firm := l.killable && n.state == notifySent
		l.mu.Unlock()
		if !firm || t.dying() {
			return err
		}
		select {
		case <-n.done:
			return nil
		case <-t.interrupt:
		}
	}
}

func (l *Listener) remove(n *notified) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, x := range l.calls {
		if x == n {
			l.calls = append(l.calls[:i], l.calls[i+1:]...)
			return
		}
	}
}

// find is the call with an id that has been taken and not been answered.
func (l *Listener) findLocked(id uint64) (*notified, error) {
	for _, n := range l.calls {
		switch {
		case n.id != id:
		case n.state != notifySent:
			return nil, unix.EINPROGRESS
		default:
			return n, nil
		}
	}
	return nil, unix.ENOENT
}

// Notice is struct seccomp_notif.
type Notice struct {
	ID   uint64
	TID  int32
	Data bpf.Data
}

// Receive takes the oldest call that nobody has taken, and waits for one as t.
func (l *Listener) Receive(t *Task) (Notice, error) {
	var got Notice
	err := t.Wait(&l.queue, vfs.EventIn|vfs.EventHup, false, 0, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, n := range l.calls {
			if n.state == notifyInit {
				n.state = notifySent
				got = Notice{n.id, t.Number(n.task.ID()), n.data}
				return nil
			}
		}
		if l.filter.users.Load() == 0 {
			return unix.ENOENT
		}
		return unix.EAGAIN
	})
	if err == nil {
		l.queue.Notify(vfs.EventOut)
	} else if err == ERESTARTSYS {
		err = unix.EINTR // down_interruptible
	}
	return got, err
}

// Unreceive puts a call back that the supervisor could not be told of.
func (l *Listener) Unreceive(id uint64) {
	l.mu.Lock()
	if n, err := l.findLocked(id); err == nil {
		n.state = notifyInit
	}
	l.mu.Unlock()
	l.queue.Notify(vfs.EventIn)
}

// Send answers a call.
func (l *Listener) Send(id uint64, r NotifyReply) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.findLocked(id)
	if err == nil {
		n.answer(r)
	}
	return err
}

func (n *notified) answer(r NotifyReply) {
	n.state, n.reply = notifyReplied, r
	close(n.done)
}

// Valid reports whether a call still waits for its answer.
func (l *Listener) Valid(id uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.findLocked(id); err != nil {
		return unix.ENOENT
	}
	return nil
}

// AddFD is SECCOMP_IOCTL_NOTIF_ADDFD: d becomes a descriptor of the process that
// waits, at fd if that is not negative. With send the number answers the call.
func (l *Listener) AddFD(id uint64, d *vfs.Description, fd int, cloexec, send bool) (int, error) {
	l.mu.Lock()
	n, err := l.findLocked(id)
	l.mu.Unlock() // what is replaced may be this listener itself
	if err != nil {
		return 0, err
	}
	_, fds, _ := n.task.Look()
	if fds == nil {
		return 0, unix.ENOENT
	}
	limit := int(min(n.task.Limit(unix.RLIMIT_NOFILE), 1<<20))
	switch {
	case fd < 0:
		fd, err = fds.Install(d, 0, cloexec, limit)
	case fd >= limit:
		err = unix.EBADF
	default:
		fds.Replace(fd, d, cloexec)
	}
	if err == nil && send {
		err = l.Send(id, NotifyReply{Value: int64(fd)})
	}
	return fd, err
}

// orphaned tells a supervisor that no task is left.
func (l *Listener) orphaned() { l.queue.Notify(vfs.EventHup) }

// Ready implements vfs.File: readable with a call to take, writable with one to answer.
func (l *Listener) Ready(mask vfs.Events) (e vfs.Events) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.calls {
		switch n.state {
		case notifyInit:
			e |= vfs.EventIn
		case notifySent:
			e |= vfs.EventOut
		}
	}
	if l.filter.users.Load() == 0 {
		return e&mask | vfs.EventHup
	}
	return e & mask
}

// Queue implements vfs.File.
func (l *Listener) Queue() *vfs.Queue { return &l.queue }

// Release implements vfs.File: calls that wait are answered ENOSYS, as later ones.
func (l *Listener) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.filter != nil {
		l.filter.listener.Store(nil)
	}
	for _, n := range l.calls {
		if n.state != notifyReplied {
			n.answer(NotifyReply{Error: -int32(unix.ENOSYS)})
		}
	}
}
