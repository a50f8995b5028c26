package vfs

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Opener makes the File for an inode that stands for something outside its file
// system.
type Opener = func(ctx Context, at Path, flags int) (File, error)

type device struct {
	typ uint32 // S_IFCHR or S_IFBLK
	dev uint64
}

// handlers serve device and FIFO inodes of all file systems. They are set while
// the Sentry boots.
var handlers struct {
	devices atomic.Pointer[map[device]Opener]
	fifo    atomic.Pointer[Opener]
}

// HandleDevice makes open serve device inodes of type S_IFCHR or S_IFBLK with
// the number dev.
func HandleDevice(typ uint32, dev uint64, open Opener) {
	for {
		old := handlers.devices.Load()
		next := map[device]Opener{}
		if old != nil {
			for k, v := range *old {
				next[k] = v
			}
		}
		next[device{typ, dev}] = open
		if handlers.devices.CompareAndSwap(old, &next) {
			return
		}
	}
}

// HandleFIFO makes open serve FIFOs.
func HandleFIFO(open Opener) { handlers.fifo.Store(&open) }

// opener finds who opens an inode with attributes a; nil: itself.
func opener(p Path, a *Attr) Opener {
	switch {
	case p.Dentry.anon:
	case a.Type() == unix.S_IFIFO:
		if f := handlers.fifo.Load(); f != nil {
			return *f
		}
	case a.Type() == unix.S_IFCHR || a.Type() == unix.S_IFBLK:
		if t := handlers.devices.Load(); t != nil {
			return (*t)[device{a.Type(), a.Rdev}]
		}
	}
	return nil
}

// lastDev numbers file systems that have no device: major 0.
var lastDev atomic.Uint32

// NewDev returns a device number for a file system without a device.
func NewDev() uint64 { return unix.Mkdev(0, lastDev.Add(1)) }
