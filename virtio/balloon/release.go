package balloon

import (
	"encoding/binary"
	"fmt"
	"slices"

	"bulkhead/virtio"
)

// maxPages bounds an inflate request. Linux sends 256 pages at a time
// (drivers/virtio/virtio_balloon.c, VIRTIO_BALLOON_ARRAY_PFNS_MAX).
const maxPages = 16 << 10

// inflate takes the pages whose numbers are in c (§5.5.6).
func (d *Device) inflate(c *virtio.Chain) error {
	pages, err := pageNumbers(c)
	if err != nil {
		return err
	}
	for _, run := range runs(pages) {
		b, err := d.mem.Slice(virtio.Addr(run.first)*pageSize, uint64(run.n)*pageSize)
		if err != nil {
			return err
		}
		d.release(b)
	}
	return nil
}

// report takes free pages: the writable segments of c (§5.5.6.7). The guest may
// count on finding there what its poison was, and we leave zeroes.
func (d *Device) report(c *virtio.Chain) error {
	if d.poisoned() {
		return nil
	}
	for _, b := range c.WriteSegments() {
		d.release(b)
	}
	return nil
}

func (d *Device) poisoned() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.active != nil && d.active.Features&featurePagePoison != 0 && d.poison != 0
}

// release gives b to the host. If it will not take it the guest loses nothing.
func (d *Device) release(b []byte) {
	err := d.to.Release(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.released += uint64(len(b))
		return
	}
	if !d.warned {
		d.log.Warn("the host does not take the guest's spare memory", "bytes", len(b), "err", err)
		d.warned = true
	}
}

// pageNumbers is the list that c carries.
func pageNumbers(c *virtio.Chain) ([]uint32, error) {
	n := c.Readable()
	if n%4 != 0 || n/4 > maxPages {
		return nil, fmt.Errorf("balloon: %d bytes of page numbers: not whole ones up to %d (§5.5.6)", n, maxPages)
	}
	raw := make([]byte, n)
	c.Read(raw) // all of it, as Readable says
	pages := make([]uint32, n/4)
	for i := range pages {
		pages[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return pages, nil
}

// run is n pages from first.
type run struct{ first, n uint32 }

// runs joins pages that lie side by side, so that few calls release them.
func runs(pages []uint32) []run {
	slices.Sort(pages)
	var joined []run
	for _, page := range slices.Compact(pages) {
		if last := len(joined) - 1; last >= 0 && page-joined[last].first == joined[last].n {
			joined[last].n++
			continue
		}
		joined = append(joined, run{page, 1})
	}
	return joined
}
