package kernel

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Kinds of owners (F_SETOWN_EX).
const (
	OwnerThread  = 0
	OwnerProcess = 1
	OwnerJob     = 2
)

// ioTarget is a vfs.Target: whom F_SETOWN named, and by whose leave.
type ioTarget struct {
	k     *Kernel
	kind  int
	id    *PID
	creds *vfs.Creds
}

// IOTarget finds whom t names by number as the owner of a descriptor. It is nil
// for 0; ESRCH if there is none.
func (t *Task) IOTarget(kind int, number int32) (vfs.Target, error) {
	if number == 0 {
		return nil, nil
	}
	id := t.FindID(number)
	if id == nil {
		return nil, unix.ESRCH
	}
	return &ioTarget{t.k, kind, id, t.Creds()}, nil
}

// ioSignals are signals about descriptors on their way. Files tell of events under
// locks that come after Kernel.mu, so the sending waits for the end of the call that
// made the event, or for a goroutine where no call did.
type ioSignals struct {
	n     atomic.Int32 // not sent yet
	flush sync.Mutex   // held while some are sent; before Kernel.mu

	mu   sync.Mutex // a leaf
	list []ioSignal
}

type ioSignal struct {
	*ioTarget
	sig, fd int
	reason  vfs.IOReason // 0: urgent data
}

// maxIOSignals bounds what one call's events leave here; they are all alike by then.
const maxIOSignals = 4096

// SignalIO implements vfs.Target.
func (o *ioTarget) SignalIO(sig, fd int, reason vfs.IOReason) {
	o.queue(ioSignal{o, sig, fd, reason})
}

// SignalUrgent implements vfs.Target: a SIGURG of the kernel's.
func (o *ioTarget) SignalUrgent() { o.queue(ioSignal{ioTarget: o}) }

func (o *ioTarget) queue(x ioSignal) {
	s := &o.k.io
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) >= maxIOSignals {
		return
	}
	if s.list = append(s.list, x); len(s.list) == 1 {
		go o.k.sendIO()
	}
	s.n.Add(1)
}

// sendIO sends what is on its way; when it returns, what was has arrived.
func (k *Kernel) sendIO() {
	s := &k.io
	s.flush.Lock()
	defer s.flush.Unlock()
	s.mu.Lock()
	list := s.list
	s.list = nil
	s.mu.Unlock()
	for _, x := range list {
		x.send()
	}
	s.n.Add(-int32(len(list)))
}

func (s ioSignal) send() {
	k := s.k
	k.mu.Lock()
	defer k.mu.Unlock()
	x := s.id.task
	switch {
	case s.kind == OwnerJob && s.id.job != nil:
		for g := range s.id.job.members {
			s.sendLocked(g, nil)
		}
	case x == nil || s.kind == OwnerJob:
	case s.kind == OwnerThread:
		s.sendLocked(x.group, x)
	default:
		s.sendLocked(x.group, nil)
	}
}

// sendLocked follows fs/fcntl.c, send_sigio_to_task.
func (s ioSignal) sendLocked(g *ThreadGroup, x *Task) {
	if g.dead || g.leader == nil || x != nil && x.state == taskDead {
		return
	}
	from, to := s.creds, g.leader.Creds()
	if from.EUID != 0 && from.EUID != to.SUID && from.EUID != to.UID && from.UID != to.SUID && from.UID != to.UID {
		return
	}
	if s.reason == 0 {
		s.k.sendLocked(g, x, kernelInfo(unix.SIGURG), false)
		return
	}
	if s.sig != 0 {
		if s.k.sendLocked(g, x, ioInfo(unix.Signal(s.sig), s.reason, s.fd), false) == nil {
			return
		}
	}
	s.k.sendLocked(g, x, kernelInfo(unix.SIGIO), false)
}

// bands are si_band by reason, from POLL_IN on.
var bands = [...]uint64{
	unix.EPOLLIN | unix.EPOLLRDNORM,
	unix.EPOLLOUT | unix.EPOLLWRNORM | unix.EPOLLWRBAND,
	unix.EPOLLIN | unix.EPOLLRDNORM | unix.EPOLLMSG,
	unix.EPOLLERR,
	unix.EPOLLPRI | unix.EPOLLRDBAND,
	unix.EPOLLHUP | unix.EPOLLERR,
}

// ioInfo is the _sigpoll layout. A signal whose codes mean something else already
// gets SI_SIGIO.
func ioInfo(sig unix.Signal, reason vfs.IOReason, fd int) *SigInfo {
	code := int32(reason)
	switch sig {
	case unix.SIGILL, unix.SIGFPE, unix.SIGSEGV, unix.SIGBUS, unix.SIGTRAP, unix.SIGCHLD, unix.SIGSYS:
		code = SI_SIGIO
	}
	i := newInfo(sig, code)
	i.put64(16, bands[reason-1])
	i.put32(24, uint32(fd))
	return i
}
