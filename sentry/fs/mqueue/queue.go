package mqueue

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// fileSize is the st_size of a queue (FILENT_SIZE).
const fileSize = 80

// queue is one message queue.
type queue struct {
	node
	fs     *FileSystem
	size   Size
	user   uint32
	charge uint64 // of RLIMIT_MSGQUEUE

	// Under node.mu.
	open     int
	messages []Message // of the highest priority first, then the oldest
	bytes    int64
	waiting  int // receivers
	notify   *Notify

	queue vfs.Queue
}

// Message is one, with its priority.
type Message struct {
	Priority uint32
	Text     []byte
}

// Notify is who asked by mq_notify(2) to be told of a message.
type Notify struct {
	Owner any   // the process
	PID   int32 // for the file's text
	How   int   // SIGEV_…
	Signo int
	// Tell is called, without locks, when a message came to an empty queue that nobody
	// waited for, with the sender; Drop, where set, when there will be none.
	Tell func(sender vfs.Context)
	Drop func()
}

func (q *queue) Open(_ vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open++
	return &File{q: q}, nil
}

// mayOpen checks permission as vfs.Open does for a file in a mount.
func (q *queue) mayOpen(ctx vfs.Context, name string, flags int) error {
	var want vfs.Access
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		want = vfs.MayRead
	case unix.O_WRONLY:
		want = vfs.MayWrite
	case unix.O_RDWR:
		want = vfs.MayRead | vfs.MayWrite
	default:
		return unix.EINVAL
	}
	return vfs.CheckAccess(ctx, vfs.AnonymousPath(q, name), want)
}

// File is an open queue.
type File struct {
	vfs.NoFile
	q *queue
}

func (f *File) Queue() *vfs.Queue { return &f.q.queue }

func (f *File) Ready(mask vfs.Events) (e vfs.Events) {
	q := f.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages) > 0 {
		e |= vfs.EventIn
	}
	if int64(len(q.messages)) < q.size.Messages {
		e |= vfs.EventOut
	}
	return e & mask
}

// Read gives the state as text.
func (f *File) Read(_ vfs.Context, dst memory.Buffers, off int64) (int, error) {
	q := f.q
	q.mu.Lock()
	how, signo, pid := 0, 0, int32(0)
	if n := q.notify; n != nil {
		how, signo, pid = n.How, n.Signo, n.PID
	}
	text := fmt.Sprintf("QSIZE:%-10d NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n", q.bytes, how, signo, pid)
	q.mu.Unlock()
	if off >= int64(len(text)) {
		return 0, nil
	}
	return dst.CopyOut([]byte(text[off:])), nil
}

// Release forgets a notification that was asked for by this file.
func (f *File) Release() {
	q := f.q
	q.fs.mu.Lock()
	q.mu.Lock()
	q.open--
	gone := q.open == 0 && q.attr.Nlink == 0
	var drop *Notify
	if q.notify != nil && q.open == 0 {
		drop, q.notify = q.notify, nil
	}
	q.mu.Unlock()
	if gone {
		q.fs.giveBackLocked(q)
	}
	q.fs.mu.Unlock()
	if drop != nil && drop.Drop != nil {
		drop.Drop()
	}
}

// Size is what the queue holds, Count how many messages are there.
func (f *File) Size() Size { return f.q.size }

func (f *File) Count() int64 {
	f.q.mu.Lock()
	defer f.q.mu.Unlock()
	return int64(len(f.q.messages))
}

// Send puts m in; EAGAIN: the queue is full.
func (f *File) Send(ctx vfs.Context, m Message) error {
	q := f.q
	q.mu.Lock()
	if int64(len(q.messages)) >= q.size.Messages {
		q.mu.Unlock()
		return unix.EAGAIN
	}
	at := slices.IndexFunc(q.messages, func(x Message) bool { return x.Priority < m.Priority })
	if at < 0 {
		at = len(q.messages)
	}
	q.messages = slices.Insert(q.messages, at, m)
	q.bytes += int64(len(m.Text))
	q.attr.Atime, q.attr.Mtime, q.attr.Ctime = ctx.Now(), ctx.Now(), ctx.Now()
	var tell *Notify
	if len(q.messages) == 1 && q.waiting == 0 {
		tell, q.notify = q.notify, nil
	}
	q.mu.Unlock()
	q.queue.Notify(vfs.EventIn)
	if tell != nil && tell.Tell != nil {
		tell.Tell(ctx)
	}
	return nil
}

// Receive takes the first message; EAGAIN: there is none.
func (f *File) Receive(ctx vfs.Context) (Message, error) {
	q := f.q
	q.mu.Lock()
	if len(q.messages) == 0 {
		q.mu.Unlock()
		return Message{}, unix.EAGAIN
	}
	m := q.messages[0]
	q.messages = slices.Delete(q.messages, 0, 1)
	q.bytes -= int64(len(m.Text))
	q.attr.Atime, q.attr.Mtime, q.attr.Ctime = ctx.Now(), ctx.Now(), ctx.Now()
	q.mu.Unlock()
	q.queue.Notify(vfs.EventOut)
	return m, nil
}

// Waits counts receivers that sleep: a message for them tells nobody else.
func (f *File) Waits(n int) {
	f.q.mu.Lock()
	defer f.q.mu.Unlock()
	f.q.waiting += n
}

// Ask is mq_notify(2); nil takes back what owner asked.
func (f *File) Ask(owner any, n *Notify) error {
	q := f.q
	q.mu.Lock()
	old := q.notify
	switch {
	case n == nil:
		if old == nil || old.Owner != owner {
			old = nil
		} else {
			q.notify = nil
		}
	case old != nil:
		q.mu.Unlock()
		return unix.EBUSY
	default:
		q.notify = n
	}
	q.mu.Unlock()
	if n == nil && old != nil && old.Drop != nil {
		old.Drop()
	}
	return nil
}
