package kernel

import "golang.org/x/sys/unix"

// EWOULDWAIT is what ends a call within TryOnly that would have to wait. It never
// reaches the application.
const EWOULDWAIT = unix.Errno(540)

// TryOnly runs f, which answers calls for t, so that none of them waits: where one
// would it ends with EWOULDWAIT, as far as it came.
func (t *Task) TryOnly(f func()) {
	t.tryOnly = true
	defer func() { t.tryOnly = false }()
	f()
}

// maxHelpers bounds the helpers of a container: each is a goroutine and a Task of
// the Sentry's memory.
const maxHelpers = 16384

// Helper is a task that answers calls for t on a goroutine that its caller starts,
// as requests of io_uring and AIO need where they wait (Linux has worker threads
// for them, io_uring/io-wq.c). It has t's memory, files, directories and
// credentials, stands in no list, and takes no signals. Retire gives all back. It is
// nil where there are too many.
func (t *Task) Helper() *Task {
	if t.k.helpers.Add(1) > maxHelpers {
		t.k.helpers.Add(-1)
		return nil
	}
	h := &Task{k: t.k, group: t.group, interrupt: make(chan struct{}, 1), state: taskRunning, mask: ^SigSet(0),
		fs: t.fs, fds: t.fds, mm: t.mm}
	h.id.Store(t.id.Load())
	h.creds.Store(t.creds.Load())
	h.namespaces.Store(t.namespaces.Load().take())
	h.comm.Store(t.comm.Load())
	h.Personality.Store(t.Personality.Load())
	h.callNumber.Store(-1)
	h.fds.Ref()
	h.mm.Retain()
	return h
}

// Retire ends a helper; its goroutine calls it last.
func (t *Task) Retire() {
	t.k.helpers.Add(-1)
	t.namespaces.Swap(nil).drop()
	t.fds.Unref()
	t.mm.Release()
}

// Cancel ends what a helper waits for, now or next, with ERESTARTSYS.
func (t *Task) Cancel() {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.killed = true
	t.kick(workExit)
}

// Uncancel lets a helper wait again after a Cancel.
func (t *Task) Uncancel() {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.killed = false
	t.work.Store(0)
	select {
	case <-t.interrupt:
	default:
	}
}

// AtEnd has f called when t exits or executes another program, while it still has
// its memory and files; once for each key, unless NotAtEnd comes before.
func (t *Task) AtEnd(key any, f func()) {
	t.endsMu.Lock()
	defer t.endsMu.Unlock()
	if t.ends == nil {
		t.ends = map[any]func(){}
	}
	t.ends[key] = f
}

func (t *Task) NotAtEnd(key any) {
	t.endsMu.Lock()
	defer t.endsMu.Unlock()
	delete(t.ends, key)
}

func (t *Task) callEnds() {
	t.endsMu.Lock()
	ends := t.ends
	t.ends = nil
	t.endsMu.Unlock()
	for _, f := range ends {
		f()
	}
}
