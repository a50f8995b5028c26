// Package balloon is the memory balloon (virtio 1.3 §5.5): memory that a guest
// does without goes back to the host, on demand (inflate) and wherever the
// guest has pages free anyway (reporting). On demand it also tells how it fares.
//
// Locks: Device.mu alone.
package balloon

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"bulkhead/virtio"
)

// Feature bits (§5.5.3). MUST_TELL_HOST is not needed, for a page that was given
// back is there again when the guest touches it; FREE_PAGE_HINT serves migration alone.
const (
	featureStats        = 1 << 1
	featureDeflateOnOOM = 1 << 2
	featurePagePoison   = 1 << 4
	featureReporting    = 1 << 5
)

// The queues (§5.5.2). Linux numbers only those whose features it has, by which
// free page reports come in queue 3, or 2, instead of 4 (drivers/virtio/virtio_mmio.c,
// vm_find_vqs). So each from 2 on that is not the statistics' is for reports.
const (
	inflate = iota
	deflate
	statistics
	reports
	reportsBySpec
)

const (
	pageSize = 4096 // of a balloon, whatever the guest's is (§5.5.6)
	entries  = 128  // of each queue
)

// Releaser is what the machine does with memory that its guest can spare.
type Releaser interface {
	// Release gives the host back those pages that lie wholly within b, a
	// slice of guest memory. They read as zeroes until the guest writes them again.
	Release(b []byte) error
}

// Device implements virtio.Runner.
type Device struct {
	mem      virtio.Memory
	to       Releaser
	log      *slog.Logger
	features uint64

	mu       sync.Mutex
	changed  *sync.Cond // wanted, stopping, reports, active, actual
	active   *virtio.Active
	stopping bool
	target   uint32 // pages that the guest shall give up
	actual   uint32 // pages that it says it gave up
	poison   uint32 // what its free pages hold, with featurePagePoison
	released uint64 // bytes
	warned   bool   // that the host did not take a page

	wanted, asked bool // a report of statistics: by a caller, from the driver
	reported      uint64
	stats         map[string]uint64 // the last report

	workers sync.WaitGroup
}

// New is a balloon for a guest with memory mem.
func New(mem virtio.Memory, to Releaser, log *slog.Logger) *Device {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	d := &Device{mem: mem, to: to, log: log, features: featureStats | featureDeflateOnOOM | featurePagePoison | featureReporting}
	d.changed = sync.NewCond(&d.mu)
	return d
}

// NewOnDemand is one that takes what it is told to (SetTarget), and not what its guest has
// free at a time: that would be had again soon, from the host, page by page.
func NewOnDemand(mem virtio.Memory, to Releaser, log *slog.Logger) *Device {
	d := New(mem, to, log)
	d.features &^= featureReporting
	return d
}

func (*Device) ID() virtio.DeviceID { return virtio.Balloon }
func (d *Device) Features() uint64  { return d.features }
func (*Device) Queues() []uint16 {
	return []uint16{inflate: entries, deflate: entries, statistics: entries, reports: entries, reportsBySpec: entries}
}

// SetTarget asks the guest to give up so many pages of 4 KiB, all told.
func (d *Device) SetTarget(pages uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.target == pages {
		return
	}
	d.target = pages
	if d.active != nil {
		d.active.ConfigChanged()
	}
}

// Pages is what a balloon holds, in pages of 4 KiB, and what has been given back.
type Pages struct {
	Target   uint32 `json:"target"`
	Actual   uint32 `json:"actual"`   // as the guest says
	Released uint64 `json:"released"` // bytes, also of pages that have been used again
}

// Pages may be asked at any time.
func (d *Device) Pages() Pages {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Pages{d.target, d.actual, d.released}
}

// Await waits until the guest has given up what it was asked to, or ctx ends.
func (d *Device) Await(ctx context.Context) Pages {
	defer context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.changed.Broadcast()
	})()
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.actual != d.target && ctx.Err() == nil {
		d.changed.Wait()
	}
	return Pages{d.target, d.actual, d.released}
}

// Start implements virtio.Runner.
func (d *Device) Start(a *virtio.Active) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active, d.stopping = a, false
	for i, q := range a.Queues {
		if q == nil {
			continue
		}
		q.Release()
		work := d.role(i, a.Features)
		d.workers.Go(func() {
			if err := work(q); !errors.Is(err, virtio.ErrStopped) {
				a.Fail(fmt.Errorf("balloon: queue %d: %w", i, err))
			}
		})
	}
	return nil
}

// role is what is done with queue i.
func (d *Device) role(i int, features uint64) func(*virtio.Queue) error {
	switch {
	case i == inflate:
		return func(q *virtio.Queue) error { return serve(q, d.inflate) }
	case i == deflate:
		return func(q *virtio.Queue) error { return serve(q, ignore) }
	case i == statistics && features&featureStats != 0:
		return d.serveStatistics
	}
	return func(q *virtio.Queue) error { return serve(q, d.report) }
}

// Stop implements virtio.Runner.
func (d *Device) Stop() {
	d.mu.Lock()
	active := d.active
	d.active, d.stopping = nil, true
	d.changed.Broadcast()
	d.mu.Unlock()
	if active == nil {
		return
	}
	active.Interrupt()
	d.workers.Wait()
}

// Reset implements virtio.Resetter: all memory is the guest's again, and the next
// driver will find the target.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.actual, d.poison, d.asked = 0, 0, false
}

// serve answers each chain of q.
func serve(q *virtio.Queue, answer func(*virtio.Chain) error) error {
	for {
		c, err := q.Await()
		if err != nil {
			return err
		}
		if err := answer(c); err != nil {
			q.Unpop(c)
			return err
		}
		if err := q.Push(c, 0); err != nil {
			return err
		}
	}
}

// ignore is for a page that is taken back (§5.5.6): touching it is enough.
func ignore(*virtio.Chain) error { return nil }

// The configuration space (§5.5.4): num_pages and poison_val for the driver to read,
// actual and poison_val for it to write; between them a field of FREE_PAGE_HINT.
const (
	configTarget = 0
	configActual = 4
	configPoison = 12
	configSize   = 16
)

func (d *Device) configLocked() (space [configSize]byte) {
	binary.LittleEndian.PutUint32(space[configTarget:], d.target)
	binary.LittleEndian.PutUint32(space[configActual:], d.actual)
	binary.LittleEndian.PutUint32(space[configPoison:], d.poison)
	return space
}

// ReadConfig implements virtio.Configured.
func (d *Device) ReadConfig(at uint32, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	space := d.configLocked()
	clear(b)
	if at < configSize {
		copy(b, space[at:])
	}
}

// WriteConfig implements virtio.Configured.
func (d *Device) WriteConfig(at uint32, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	space := d.configLocked()
	if at < configSize {
		copy(space[at:], b)
	}
	d.actual = binary.LittleEndian.Uint32(space[configActual:])
	d.poison = binary.LittleEndian.Uint32(space[configPoison:])
	d.changed.Broadcast()
}

// state is what a snapshot keeps.
type state struct{ Target, Actual, Poison uint32 }

// Save implements virtio.Keeper.
func (d *Device) Save() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return json.Marshal(state{d.target, d.actual, d.poison})
}

// Restore implements virtio.Keeper.
func (d *Device) Restore(b []byte) error {
	var s state
	if err := virtio.ParseState(b, &s); err != nil {
		return fmt.Errorf("balloon: restore: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target, d.actual, d.poison = s.Target, s.Actual, s.Poison
	return nil
}
