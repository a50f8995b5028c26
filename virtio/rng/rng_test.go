package rng_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"testing/iotest"

	"bulkhead/virtio"
	"bulkhead/virtio/rng"
	"bulkhead/virtio/virtiotest"
)

// counter counts up, so that a test sees which bytes came from where.
type counter byte

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(*c)
		*c++
	}
	return len(p), nil
}

func TestFills(t *testing.T) {
	for _, row := range []struct {
		name     string
		features uint64
	}{
		{"plain", 0},
		{"event index", virtio.FeatureEventIdx},
		{"indirect", virtio.FeatureIndirectDesc | virtio.FeatureEventIdx},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := virtiotest.Start(t, rng.New(new(counter)), row.features)
			if got, want := d.Send(0, nil, []int{3, 0, 5}).Wait(), []byte{0, 1, 2, 3, 4, 5, 6, 7}; !bytes.Equal(got, want) {
				t.Errorf("eight bytes in three descriptors: got %v, want %v", got, want)
			}
			if got := d.Do(0, nil, 1<<20); len(got) != 64<<10 || got[0] != 8 {
				t.Errorf("1 MiB asked: got %d bytes from %d, want 64 KiB from 8", len(got), got[0])
			}
			if got := d.Send(0, nil, nil).Wait(); len(got) != 0 {
				t.Errorf("an empty request: got %v", got)
			}
		})
	}
}

func TestFails(t *testing.T) {
	d := virtiotest.Start(t, rng.New(rand.Reader), 0)
	if got := d.Do(0, []byte{1}, 8); got != nil || d.Failed() == nil {
		t.Errorf("a readable byte: got %v and no failure", got)
	}
	dead := errors.New("no entropy")
	d = virtiotest.Start(t, rng.New(iotest.ErrReader(dead)), 0)
	d.Do(0, nil, 8)
	if err := d.Failed(); !errors.Is(err, dead) {
		t.Errorf("a source without bytes: got %v, want %v", err, dead)
	}
}

func FuzzRNG(f *testing.F) {
	virtiotest.Fuzz(f, func(*testing.T) virtio.Device { return rng.New(new(counter)) }, nil,
		virtiotest.FuzzRequest(0, nil, []int{16, 1000}),
		slices.Concat(virtiotest.FuzzRequest(0, nil, []int{1}), virtiotest.FuzzPause, virtiotest.FuzzRequest(0, [][]byte{{1}}, nil), virtiotest.FuzzReset, virtiotest.FuzzRequest(0, nil, []int{1})))
}
