package vfs

// Signaller is a file that can tell of itself by a signal (its file_operations have
// fasync): IOReason is what it says of events that its queue is notified of, 0 for
// nothing. It is called as a Waiter's Notify is.
type Signaller interface {
	IOReason(e Events) IOReason
}

// Values of IOReason (include/uapi/asm-generic/siginfo.h).
const (
	IOIn      IOReason = 1 // POLL_IN
	IOOut     IOReason = 2
	IOMessage IOReason = 3
	IOError   IOReason = 4
	IOUrgent  IOReason = 5
	IOHangup  IOReason = 6
)

// Urgent is a file that can have urgent data, which its queue tells of by EventPri: its
// owner hears of that by SIGURG, O_ASYNC or not (net/core/sock.c, sk_send_sigurg).
type Urgent interface{ TellsUrgent() }

// hearUrgent makes d's owner hear of urgent data.
func (d *Description) hearUrgent() {
	if _, ok := d.file.(Urgent); !ok {
		return
	}
	d.asyncMu.Lock()
	defer d.asyncMu.Unlock()
	if d.urgent == nil {
		d.urgent = &Waiter{Mask: EventPri, Notify: func(Events) {
			if o := d.Owner(); o.Target != nil {
				o.Target.SignalUrgent()
			}
		}}
		d.Queue().Add(d.urgent)
	}
}

// SetAsync is what O_ASYNC for d means: d's owner hears of it as of descriptor fd, or no
// more. It says whether d's file can tell of itself.
func (d *Description) SetAsync(fd int, on bool) bool {
	f, ok := d.file.(Signaller)
	q := d.Queue()
	if !ok || q == nil {
		return false
	}
	d.endAsync()
	d.asyncMu.Lock()
	defer d.asyncMu.Unlock()
	if on && d.async == nil {
		d.async = &Waiter{Mask: ^Events(0), Notify: func(e Events) {
			r := f.IOReason(e)
			if r == 0 {
				return
			}
			if o := d.Owner(); o.Target != nil {
				o.Target.SignalIO(o.Signal, fd, r)
			}
		}}
		q.Add(d.async)
	}
	return true
}

func (d *Description) endAsync() {
	d.asyncMu.Lock()
	defer d.asyncMu.Unlock()
	if d.async != nil {
		d.Queue().Remove(d.async)
		d.async = nil
	}
}

func (d *Description) endUrgent() {
	d.asyncMu.Lock()
	defer d.asyncMu.Unlock()
	if d.urgent != nil {
		d.Queue().Remove(d.urgent)
		d.urgent = nil
	}
}
