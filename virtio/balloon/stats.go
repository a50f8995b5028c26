package balloon

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"

	"bulkhead/virtio"
)

// statNames are the tags of §5.5.6.4, by number. What is not in it is left out.
var statNames = [...]string{
	"swap_in", "swap_out", "major_faults", "minor_faults",
	"free_memory", "total_memory", "available_memory", "disk_caches",
	"hugetlb_allocations", "hugetlb_failures", "oom_kills", "allocation_stalls",
	"async_scans", "direct_scans", "async_reclaims", "direct_reclaims",
}

const (
	statSize = 10 // bytes: tag and value (§5.5.6.3)
	maxStats = 64 // entries that we look at
)

// ErrNoStatistics says that nobody in the guest would report.
var ErrNoStatistics = errors.New("balloon: the guest reports no statistics: it has no driver for them, or is paused")

// Statistics asks the guest how its memory is used, in bytes or in numbers of
// events, and waits for the answer.
func (d *Device) Statistics(ctx context.Context) (map[string]uint64, error) {
	defer context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.changed.Broadcast()
	})()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = true
	d.changed.Broadcast()
	for before := d.reported; d.reported == before; d.changed.Wait() {
		if d.active == nil || d.active.Features&featureStats == 0 || d.active.Queues[statistics] == nil {
			return nil, ErrNoStatistics
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return maps.Clone(d.stats), nil
}

// serveStatistics holds the driver's one buffer until somebody wants to know:
// its return is the question, and the next one the answer (§5.5.6.3).
func (d *Device) serveStatistics(q *virtio.Queue) error {
	for {
		c, err := q.Await()
		if err != nil {
			return err
		}
		if !d.note(parseStatistics(c)) {
			q.Unpop(c)
			return virtio.ErrStopped
		}
		if err := q.Push(c, 0); err != nil {
			return err
		}
	}
}

// note keeps a report, if it was asked for, and waits for the next question. A
// stop ends that.
func (d *Device) note(stats map[string]uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked {
		d.asked = false
		d.stats = stats
		d.reported++
		d.changed.Broadcast()
	}
	for !d.wanted && !d.stopping {
		d.changed.Wait()
	}
	if d.stopping {
		return false
	}
	d.wanted, d.asked = false, true
	return true
}

// parseStatistics is what c reports.
func parseStatistics(c *virtio.Chain) map[string]uint64 {
	raw := make([]byte, min(c.Readable(), maxStats*statSize))
	c.Read(raw) // all of it, as Readable says
	stats := map[string]uint64{}
	for ; len(raw) >= statSize; raw = raw[statSize:] {
		if tag := binary.LittleEndian.Uint16(raw); int(tag) < len(statNames) {
			stats[statNames[tag]] = binary.LittleEndian.Uint64(raw[2:])
		}
	}
	return stats
}
