package ipc

import (
	"math"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Flags of msgrcv(2).
const (
	MsgNoError = 0o10000
	MsgExcept  = 0o20000
	MsgCopy    = 0o40000
)

// msgMost bounds the bytes of all messages of a namespace, which lie in the
// Sentry's memory; each counts as msgHead more.
const (
	msgMost = 64 << 20
	msgHead = 64
)

type msgSpace struct {
	mu    sync.Mutex
	ids   ids[*msgQueue]
	bytes int // of messages, with heads
}

// Message is one of a System V queue.
type Message struct {
	Type int64
	Text []byte
}

type msgQueue struct {
	p                   Perm
	stime, rtime, ctime int64
	lspid, lrpid        int32
	bytes, most         uint64
	messages            []Message
	receivers           []*msgWaiter
	senders             []*msgWaiter
}

func (q *msgQueue) perm() *Perm { return &q.p }

type msgWaiter struct {
	want msgWant
	done bool // the queue has gone, or for a receiver: there is a message
	err  error
	m    Message
	pid  int32
	w    *vfs.Waiter
}

func (w *msgWaiter) finish(m Message, err error) {
	w.done, w.m, w.err = true, m, err
	w.w.Notify(vfs.EventIn)
}

// msgWant says which message a receiver takes.
type msgWant struct {
	typ    int64
	except bool
	size   uint64
	cut    bool // MSG_NOERROR
}

// takes says whether m is one of those wanted.
func (w *msgWant) takes(m *Message) bool {
	switch {
	case w.typ == 0:
		return true
	case w.typ < 0:
		return m.Type <= -max(w.typ, -math.MaxInt64)
	case w.except:
		return m.Type != w.typ
	}
	return m.Type == w.typ
}

// find is the message to take, -1 for none: the first, or for a negative type
// the first of the lowest type.
func (w *msgWant) find(l []Message) int {
	found := -1
	for i := range l {
		if !w.takes(&l[i]) {
			continue
		}
		if w.typ >= 0 {
			return i
		}
		if found < 0 || l[i].Type < l[found].Type {
			found = i
		}
	}
	return found
}

// MsgGet is msgget(2).
func (ns *Namespace) MsgGet(t Task, key int32, flags int) (int, error) {
	limits := ns.Limits()
	ms := &ns.msg
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return getOrMake(&ms.ids, t, key, flags, func(*msgQueue) error { return nil }, func() (*msgQueue, error) {
		if len(ms.ids.at) >= limits.MsgMNI {
			return nil, unix.ENOSPC
		}
		return &msgQueue{p: ns.newPerm(t, key, uint32(flags)), ctime: seconds(t), most: uint64(limits.MsgMNB)}, nil
	})
}

// room says whether a message of n bytes fits.
func (q *msgQueue) room(n int) bool {
	return uint64(n)+q.bytes <= q.most && uint64(len(q.messages))+1 <= q.most
}

// MsgSend is msgsnd(2). It takes m.Text.
func (ns *Namespace) MsgSend(t Task, id int, m Message, flags int) error {
	ms := &ns.msg
	ms.mu.Lock()
	q, err := ms.ids.get(id)
	for err == nil {
		if err = q.p.allows(t, 0o222); err != nil {
			break
		}
		if q.room(len(m.Text)) {
			if ms.bytes+len(m.Text)+msgHead > msgMost {
				err = unix.ENOMEM
				break
			}
			q.lspid, q.stime = t.PID(), seconds(t)
			if !q.hand(m, q.stime) {
				q.messages = append(q.messages, m)
				q.bytes += uint64(len(m.Text))
				ms.bytes += len(m.Text) + msgHead
			}
			break
		}
		if flags&NoWait != 0 {
			err = unix.EAGAIN
			break
		}
		c := make(chan struct{}, 1)
		w := &msgWaiter{w: t.Waiter(vfs.EventOut, c)}
		q.senders = append(q.senders, w)
		ms.mu.Unlock()
		err = t.BlockOn(c, 0)
		ms.mu.Lock()
		q.senders = slices.DeleteFunc(q.senders, func(x *msgWaiter) bool { return x == w })
		if w.done {
			err = w.err
		}
	}
	ms.mu.Unlock()
	return err
}

// hand gives m to a receiver that waits for it, if there is one
// (ipc/msg.c, pipelined_send).
func (q *msgQueue) hand(m Message, now int64) bool {
	for i := 0; i < len(q.receivers); {
		w := q.receivers[i]
		if !w.want.takes(&m) {
			i++
			continue
		}
		q.receivers = slices.Delete(q.receivers, i, i+1)
		if w.want.size < uint64(len(m.Text)) && !w.want.cut {
			w.finish(Message{}, unix.E2BIG)
			continue
		}
		q.lrpid, q.rtime = w.pid, now
		w.finish(m, nil)
		return true
	}
	return false
}

// wakeSenders lets them look for room again.
func (q *msgQueue) wakeSenders() {
	for _, w := range q.senders {
		w.w.Notify(vfs.EventOut)
	}
}

// MsgReceive is msgrcv(2). The text may be longer than size with MSG_NOERROR.
func (ns *Namespace) MsgReceive(t Task, id int, size uint64, typ int64, flags int) (Message, error) {
	ms := &ns.msg
	want := msgWant{typ: typ, except: flags&MsgExcept != 0 && typ > 0, size: size, cut: flags&MsgNoError != 0}
	ms.mu.Lock()
	q, err := ms.ids.get(id)
	for err == nil {
		if err = q.p.allows(t, 0o444); err != nil {
			break
		}
		if flags&MsgCopy != 0 {
			m, err := q.copyOf(typ, &want)
			ms.mu.Unlock()
			return m, err
		}
		if i := want.find(q.messages); i >= 0 {
			m := q.messages[i]
			if uint64(len(m.Text)) > size && !want.cut {
				err = unix.E2BIG
				break
			}
			q.messages = slices.Delete(q.messages, i, i+1)
			q.bytes -= uint64(len(m.Text))
			ms.bytes -= len(m.Text) + msgHead
			q.lrpid, q.rtime = t.PID(), seconds(t)
			q.wakeSenders()
			ms.mu.Unlock()
			return m, nil
		}
		if flags&NoWait != 0 {
			err = unix.ENOMSG
			break
		}
		c := make(chan struct{}, 1)
		w := &msgWaiter{want: want, pid: t.PID(), w: t.Waiter(vfs.EventIn, c)}
		q.receivers = append(q.receivers, w)
		ms.mu.Unlock()
		err = t.BlockOn(c, 0)
		ms.mu.Lock()
		if w.done {
			ms.mu.Unlock()
			return w.m, w.err
		}
		q.receivers = slices.DeleteFunc(q.receivers, func(x *msgWaiter) bool { return x == w })
	}
	ms.mu.Unlock()
	return Message{}, err
}

// copyOf is MSG_COPY: the message in place n, which stays.
func (q *msgQueue) copyOf(n int64, want *msgWant) (Message, error) {
	if n < 0 || n >= int64(len(q.messages)) {
		return Message{}, unix.ENOMSG
	}
	m := q.messages[n]
	if uint64(len(m.Text)) > want.size && !want.cut {
		return Message{}, unix.E2BIG
	}
	return m, nil
}

// MsgStat is struct msqid64_ds.
type MsgStat struct {
	Perm
	Stime, Rtime, Ctime int64
	Bytes               uint64
	N                   int
	Most                uint64
	LSPID, LRPID        int32
}

func (q *msgQueue) stat() MsgStat {
	return MsgStat{q.p, q.stime, q.rtime, q.ctime, q.bytes, len(q.messages), q.most, q.lspid, q.lrpid}
}

// MsgStat is IPC_STAT and its kin, as ShmStat.
func (ns *Namespace) MsgStat(t Task, id int, byPlace, any bool) (MsgStat, error) {
	ns.msg.mu.Lock()
	defer ns.msg.mu.Unlock()
	q, err := find(&ns.msg.ids, id, byPlace)
	if err != nil {
		return MsgStat{}, err
	}
	if !any {
		if err := q.p.allows(t, 0o444); err != nil {
			return MsgStat{}, err
		}
	}
	return q.stat(), nil
}

// MsgSet is IPC_SET, with most the bytes that the queue holds.
func (ns *Namespace) MsgSet(t Task, id int, o Owner, most uint64) error {
	limit := uint64(ns.Limits().MsgMNB)
	return ns.msgControl(t, id, func(q *msgQueue) error {
		if most > limit && !t.Creds().HasIn(ns.owner, unix.CAP_SYS_RESOURCE) {
			return unix.EPERM
		}
		if err := q.p.set(o); err != nil {
			return err
		}
		q.most, q.ctime = most, seconds(t)
		q.wakeSenders()
		return nil
	})
}

// MsgRemove is IPC_RMID.
func (ns *Namespace) MsgRemove(t Task, id int) error {
	return ns.msgControl(t, id, func(q *msgQueue) error {
		ns.msg.ids.remove(q)
		for _, m := range q.messages {
			ns.msg.bytes -= len(m.Text) + msgHead
		}
		q.messages = nil
		for _, w := range append(q.receivers, q.senders...) {
			w.finish(Message{}, unix.EIDRM)
		}
		q.receivers, q.senders = nil, nil
		return nil
	})
}

func (ns *Namespace) msgControl(t Task, id int, f func(*msgQueue) error) error {
	ns.msg.mu.Lock()
	defer ns.msg.mu.Unlock()
	q, err := ns.msg.ids.get(id)
	if err != nil {
		return err
	}
	if err := q.p.mayControl(t); err != nil {
		return err
	}
	return f(q)
}

// MsgInfo is what MSG_INFO counts.
type MsgInfo struct{ Queues, Messages, Bytes, Highest int }

func (ns *Namespace) MsgInfo() (i MsgInfo) {
	ns.msg.mu.Lock()
	defer ns.msg.mu.Unlock()
	i.Queues, i.Highest = len(ns.msg.ids.at), ns.msg.ids.highest()
	for _, q := range ns.msg.ids.at {
		i.Messages += len(q.messages)
		i.Bytes += int(q.bytes)
	}
	return i
}

// MsgQueues are for /proc/sysvipc/msg.
func (ns *Namespace) MsgQueues() (l []MsgStat) {
	ns.msg.mu.Lock()
	defer ns.msg.mu.Unlock()
	for _, q := range ns.msg.ids.all() {
		l = append(l, q.stat())
	}
	return l
}
