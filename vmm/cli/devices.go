package cli

import (
	"crypto/rand"
	"fmt"

	"bulkhead/virtio"
	"bulkhead/virtio/balloon"
	"bulkhead/virtio/blk"
	"bulkhead/virtio/fs"
	"bulkhead/virtio/net"
	"bulkhead/virtio/rng"
	"bulkhead/virtio/vsock"
	"bulkhead/vmm/machine"

	"golang.org/x/sys/unix"
)

// openDevices opens what the words name on the host, and makes devices of it, in
// an order that is the same each time: a snapshot relies on it.
func (r *run) openDevices(c *machine.Config) error {
	m := r.words
	add := func(name string, d virtio.Device) {
		c.Devices = append(c.Devices, machine.Device{Name: name, Device: d})
	}
	for _, w := range m.Disks {
		d, err := blk.Open(w.Path, blk.Options{
			ReadOnly: w.ReadOnly, Serial: w.ID, Queues: w.Queues, Direct: w.Direct, Writethrough: w.Writethrough,
			Limit: m.LimitOf(w.ID).Limits, Log: r.log,
		})
		if err != nil {
			return err
		}
		r.closers = append(r.closers, d.Close)
		add(w.ID, d)
	}
	for _, w := range m.Nets {
		if w.TAP == "" {
			continue
		}
		limits := m.LimitOf(w.ID).Limits
		d, err := net.New(net.Options{
			Tap: w.TAP, Pairs: w.Queues, MAC: w.MAC, MTU: w.MTU, ReceiveLimit: limits, SendLimit: limits, Log: r.log,
		})
		if err != nil {
			return err
		}
		r.closers = append(r.closers, d.Close)
		add(w.ID, d)
	}
	descriptors, err := openFiles()
	if err != nil {
		return err
	}
	for _, w := range m.Shares {
		d, err := fs.New(fs.Options{Dir: w.Dir, Tag: w.Tag, ReadOnly: w.ReadOnly, Descriptors: descriptors / len(m.Shares), Log: r.log})
		if err != nil {
			return fmt.Errorf("share %s: %w", w.Tag, err)
		}
		r.closers = append(r.closers, d.Close)
		add(w.Tag, d)
	}
	if w := m.Vsock; w.CID != 0 {
		d, err := vsock.New(vsock.Options{CID: uint64(w.CID), Path: w.Path, Log: r.log})
		if err != nil {
			return err
		}
		r.closers = append(r.closers, d.Close)
		add("vsock", d)
	}
	if m.Balloon {
		r.balloon = balloon.New(c.Memory, c.Memory, r.log)
		add("balloon", r.balloon)
	}
	if m.RNG {
		add("rng", rng.New(rand.Reader))
	}
	return nil
}

// openFiles is how many descriptors shares may have together: half of what this
// process may, and not without end, as each costs the kernel memory.
func openFiles() (int, error) {
	const most = 1 << 18
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("vmm: limit of open files: %w", err)
	}
	return int(min(limit.Cur/2, most)), nil
}
