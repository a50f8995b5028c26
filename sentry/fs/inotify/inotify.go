// Package inotify is inotify(7): events of inodes, queued for a reader
// (fs/notify/inotify).
//
// Lock order: Instance.mu, then the vfs's watch table. Notify is called with
// neither.
package inotify

import (
	"encoding/binary"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Limits of /proc/sys/fs/inotify.
const (
	maxQueued  = 16384
	maxWatches = 65536
)

// headerSize is that of struct inotify_event.
const headerSize = unix.SizeofInotifyEvent

// event is a queued struct inotify_event.
type event struct {
	wd           int32
	mask, cookie uint32
	name         string
}

// size is what the event takes in a read: the name is padded with at least one
// zero to a multiple of the header's size.
func (e *event) size() int {
	if e.name == "" {
		return headerSize
	}
	return headerSize + (len(e.name)+headerSize)/headerSize*headerSize
}

// Instance is an inotify descriptor's file.
type Instance struct {
	vfs.NoFile

	mu      sync.Mutex
	watches map[int32]*watch
	byInode map[vfs.Inode]*watch
	last    int32
	events  []event
	bytes   int // of events

	queue vfs.Queue
}

// watch is one watched inode.
type watch struct {
	vfs.Watch
	in    *Instance
	wd    int32
	inode vfs.Inode
}

// New makes an instance. flags are IN_NONBLOCK.
func New(flags int) *vfs.Description {
	in := &Instance{watches: make(map[int32]*watch), byInode: make(map[vfs.Inode]*watch)}
	return vfs.NewAnonymous(in, "anon_inode:inotify", unix.O_RDONLY|flags&unix.IN_NONBLOCK)
}

// Add is inotify_add_watch(2). The name has been resolved, by IN_DONT_FOLLOW and
// IN_ONLYDIR, which are the caller's.
func (in *Instance) Add(ctx vfs.Context, p vfs.Path, mask uint32) (wd int, err error) {
	if mask&unix.IN_ALL_EVENTS == 0 || mask&unix.IN_MASK_ADD != 0 && mask&unix.IN_MASK_CREATE != 0 {
		return -1, unix.EINVAL
	}
	if err := vfs.CheckAccess(ctx, p, vfs.MayRead); err != nil {
		return -1, err
	}
	i := p.Inode()
	in.mu.Lock()
	defer in.mu.Unlock()
	if w := in.byInode[i]; w != nil {
		if mask&unix.IN_MASK_CREATE != 0 {
			return -1, unix.EEXIST
		}
		if mask&unix.IN_MASK_ADD != 0 {
			mask |= w.Mask.Load()
		}
		w.Mask.Store(mask &^ unix.IN_MASK_ADD)
		return int(w.wd), nil
	}
	if len(in.watches) >= maxWatches {
		return -1, unix.ENOSPC
	}
	in.last++
	w := &watch{in: in, wd: in.last, inode: i}
	w.Mask.Store(mask &^ (unix.IN_MASK_ADD | unix.IN_MASK_CREATE))
	w.Notify = w.notify
	in.watches[w.wd], in.byInode[i] = w, w
	vfs.AddWatch(i, &w.Watch)
	return int(w.wd), nil
}

// Remove is inotify_rm_watch(2).
func (in *Instance) Remove(wd int) error {
	in.mu.Lock()
	w := in.watches[int32(wd)]
	if w == nil {
		in.mu.Unlock()
		return unix.EINVAL
	}
	in.forgetLocked(w)
	in.pushLocked(event{wd: w.wd, mask: unix.IN_IGNORED})
	in.mu.Unlock()
	in.queue.Notify(vfs.EventIn)
	return nil
}

func (in *Instance) forgetLocked(w *watch) {
	delete(in.watches, w.wd)
	delete(in.byInode, w.inode)
	vfs.RemoveWatch(&w.Watch)
}

// notify is called by the vfs.
func (w *watch) notify(mask, cookie uint32, name string) {
	in := w.in
	in.mu.Lock()
	if in.watches[w.wd] != w { // removed meanwhile
		in.mu.Unlock()
		return
	}
	in.pushLocked(event{w.wd, mask, cookie, name})
	switch {
	case mask&unix.IN_IGNORED != 0:
		in.forgetLocked(w)
	case w.Mask.Load()&unix.IN_ONESHOT != 0:
		in.forgetLocked(w)
		in.pushLocked(event{wd: w.wd, mask: unix.IN_IGNORED})
	}
	in.mu.Unlock()
	in.queue.Notify(vfs.EventIn)
}

// pushLocked queues e, unless it repeats the last one.
func (in *Instance) pushLocked(e event) {
	n := len(in.events)
	if n > 0 && in.events[n-1] == e {
		return
	}
	if n >= maxQueued {
		if in.events[n-1].mask == unix.IN_Q_OVERFLOW {
			return
		}
		e = event{wd: -1, mask: unix.IN_Q_OVERFLOW}
	}
	e.name = strings.Clone(e.name) // it may be a part of something large
	in.events = append(in.events, e)
	in.bytes += e.size()
}

// Stream implements vfs.Stream.
func (in *Instance) Stream() {}

// Seek does nothing (fs/read_write.c, noop_llseek).
func (in *Instance) Seek(_ vfs.Context, pos, _ int64, _ int) (int64, error) { return pos, nil }

// Queue implements vfs.File.
func (in *Instance) Queue() *vfs.Queue { return &in.queue }

// Ready implements vfs.File.
func (in *Instance) Ready(mask vfs.Events) vfs.Events {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.events) > 0 {
		return mask & vfs.EventIn
	}
	return 0
}

// Read implements vfs.File: as many whole events as fit.
func (in *Instance) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.events) == 0 {
		return 0, unix.EAGAIN
	}
	room := dst.Len()
	var b []byte
	n := 0
	for n < len(in.events) && len(b)+in.events[n].size() <= room {
		b = in.events[n].encode(b)
		n++
	}
	if n == 0 {
		return 0, unix.EINVAL
	}
	if dst.CopyOut(b) < len(b) {
		return 0, unix.EFAULT
	}
	in.events = in.events[n:]
	in.bytes -= len(b)
	return len(b), nil
}

func (e *event) encode(b []byte) []byte {
	o, size := binary.NativeEndian, e.size()
	b = o.AppendUint32(b, uint32(e.wd))
	b = o.AppendUint32(b, e.mask)
	b = o.AppendUint32(b, e.cookie)
	b = o.AppendUint32(b, uint32(size-headerSize))
	b = append(b, e.name...)
	return append(b, make([]byte, size-headerSize-len(e.name))...)
}

// Ioctl implements vfs.File: FIONREAD.
func (in *Instance) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	if cmd != unix.TIOCINQ {
		return 0, unix.ENOTTY
	}
	in.mu.Lock()
	n := in.bytes
	in.mu.Unlock()
	_, err := ctx.Memory().Write(memory.Addr(arg), binary.NativeEndian.AppendUint32(nil, uint32(n)))
	return 0, err
}

// Release implements vfs.File.
func (in *Instance) Release() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, w := range in.watches {
		in.forgetLocked(w)
	}
}

// IOReason implements vfs.Signaller.
func (*Instance) IOReason(vfs.Events) vfs.IOReason { return vfs.IOIn }
