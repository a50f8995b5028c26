package balloon_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"bulkhead/virtio"
	"bulkhead/virtio/balloon"
	"bulkhead/virtio/virtiotest"
)

const (
	inflate    = 0
	deflate    = 1
	statistics = 2

	featureStats     = 1 << 1
	featurePoison    = 1 << 4
	featureReporting = 1 << 5

	page = 4096
)

// host takes memory back, as a machine does.
type host struct {
	mu    sync.Mutex
	calls int
	err   error
}

func (h *host) Release(b []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	if h.err == nil {
		clear(b)
	}
	return h.err
}

// rig is a balloon in a guest of 4 MiB whose memory from 1 MiB on is all ones.
type rig struct {
	*virtiotest.Driver
	dev  *balloon.Device
	host *host
	free []byte // the ones
}

const freeFrom = 1 << 20

func start(t *testing.T, features uint64) *rig {
	t.Helper()
	mem := virtiotest.NewMemory(4 << 20)
	r := &rig{host: &host{}, free: mem.Bytes(freeFrom, 3<<20)}
	for i := range r.free {
		r.free[i] = 1
	}
	r.dev = balloon.New(mem, r.host, nil)
	r.Driver = virtiotest.StartIn(t, mem, r.dev, features)
	return r
}

// gone lists the pages from freeFrom on that read as zeroes.
func (r *rig) gone() (pages []int) {
	for i := 0; i < len(r.free); i += page {
		if bytes.Equal(r.free[i:i+page], make([]byte, page)) {
			pages = append(pages, i/page)
		}
	}
	return pages
}

// numbers is a list of pages, counted from freeFrom.
func numbers(pages ...uint32) (b []byte) {
	for _, n := range pages {
		b = binary.LittleEndian.AppendUint32(b, n+freeFrom/page)
	}
	return b
}

func TestInflate(t *testing.T) {
	r := start(t, 0)
	r.Do(inflate, numbers(7, 3, 5, 4, 3), 0)
	if got, want := r.gone(), []int{3, 4, 5, 7}; !slices.Equal(got, want) {
		t.Errorf("pages given back: %v, want %v", got, want)
	}
	if r.host.calls != 2 {
		t.Errorf("%d calls for two runs of pages", r.host.calls)
	}
	r.Do(deflate, numbers(3, 4), 0)
	r.Do(inflate, nil, 0)
	if got := r.dev.Pages().Released; got != 4*page {
		t.Errorf("released %d bytes, want %d", got, 4*page)
	}
}

// TestAwait: a wait for the guest ends with what it was to give up, or with the waiter.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 0)
		r.dev.SetTarget(3)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if p := r.dev.Await(ended); p.Actual != 0 || p.Target != 3 {
			t.Errorf("nobody waits, and it tells %+v", p)
		}
		done := make(chan balloon.Pages)
		go func() { done <- r.dev.Await(t.Context()) }()
		for _, pages := range []byte{1, 2, 3} {
			synctest.Wait()
			select {
			case p := <-done:
				t.Fatalf("the wait ended at %+v", p)
			default:
			}
			r.dev.WriteConfig(4, []byte{pages, 0, 0, 0})
		}
		if p := <-done; p.Actual != 3 {
			t.Errorf("the wait ended at %+v", p)
		}
	})
}

func TestHostilePages(t *testing.T) {
	for name, list := range map[string][]byte{
		"past memory":   numbers(1, 3<<20/page),
		"far away":      {0xff, 0xff, 0xff, 0xff},
		"half a number": {1, 0, 0},
		"too many":      make([]byte, 1<<20),
	} {
		r := start(t, 0)
		r.Do(inflate, list, 0)
		if r.Failed() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestHostRefuses(t *testing.T) {
	r := start(t, 0)
	r.host.err = errors.New("huge")
	r.Do(inflate, numbers(1), 0) // and nothing happens
	if got := r.dev.Pages().Released; got != 0 {
		t.Errorf("released %d bytes, want none", got)
	}
}

// TestReport sends free pages in each queue where a driver may have them.
func TestReport(t *testing.T) {
	for _, row := range []struct {
		name     string
		features uint64
		queue    int
		poison   byte
		want     []int
	}{
		{"by the specification", featureStats | featureReporting, 4, 0, []int{0, 1, 5}},
		{"as Linux counts", featureStats | featureReporting, 3, 0, []int{0, 1, 5}},
		{"without statistics", featureReporting, 2, 0, []int{0, 1, 5}},
		{"poison of zeroes", featureReporting | featurePoison, 3, 0, []int{0, 1, 5}},
		{"poison", featureReporting | featurePoison, 3, 0xaa, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := start(t, row.features)
			r.SetConfig(12, []byte{row.poison, row.poison, row.poison, row.poison})
			ring := r.Ring(row.queue)
			ring.SetDesc(0, virtiotest.Desc{Addr: freeFrom, Len: 2 * page, Flags: virtiotest.Write | virtiotest.Next, Next: 1})
			ring.SetDesc(1, virtiotest.Desc{Addr: freeFrom + 5*page, Len: page, Flags: virtiotest.Write})
			ring.Offer(0)
			r.Kick(row.queue)
			r.AwaitSleep(row.queue)
			if _, n, ok := ring.Reap(); !ok || n != 0 {
				t.Errorf("answered: %v, %d bytes", ok, n)
			}
			if got := r.gone(); !slices.Equal(got, row.want) {
				t.Errorf("pages given back: %v, want %v", got, row.want)
			}
		})
	}
}

func TestTarget(t *testing.T) {
	r := start(t, 0)
	r.dev.SetTarget(0x12345)
	r.dev.SetTarget(0x12345)
	r.WaitConfig(1)
	if got := binary.LittleEndian.Uint32(r.Config(0, 4)); got != 0x12345 {
		t.Errorf("num_pages %#x", got)
	}
	r.SetConfig(0, []byte{9, 9, 9, 9}) // not the driver's
	r.SetConfig(4, []byte{0x44, 0x33, 0x22, 0x11})
	r.SetConfig(7, []byte{0x10, 1, 2, 3, 4, 5})
	r.SetConfig(1<<31, []byte{1})
	if got, want := r.dev.Pages(), (balloon.Pages{Target: 0x12345, Actual: 0x10223344}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}

	other := balloon.New(r.Memory, r.host, nil)
	r.Replace(other)
	if got, want := other.Pages(), (balloon.Pages{Target: 0x12345, Actual: 0x10223344}); got != want {
		t.Errorf("restored: got %+v, want %+v", got, want)
	}
	r.Reset()
	if got, want := other.Pages(), (balloon.Pages{Target: 0x12345}); got != want {
		t.Errorf("reset: got %+v, want %+v", got, want)
	}
}

// stat is an entry of a report.
func stat(tag uint16, value uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, tag), value)
}

func TestStatistics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, featureStats)
		old := r.Send(statistics, [][]byte{stat(4, 1)}, nil)
		synctest.Wait()
		if old.Done() {
			t.Error("the first report was given back before anybody asked")
		}
		for _, pause := range []func(){func() {}, func() { r.Stop(); r.Restart() }} {
			pause()
			got := make(chan map[string]uint64)
			go func() {
				stats, err := r.dev.Statistics(t.Context())
				if err != nil {
					t.Error(err)
				}
				got <- stats
			}()
			old.Wait()
			old = r.Send(statistics, [][]byte{slices.Concat(stat(4, 1<<40), stat(999, 3), stat(10, 2), []byte{1, 2, 3})}, nil)
			if stats, want := <-got, map[string]uint64{"free_memory": 1 << 40, "oom_kills": 2}; !maps.Equal(stats, want) {
				t.Errorf("got %v, want %v", stats, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.dev.Statistics(ctx); err != context.Canceled {
			t.Errorf("a question called off: %v", err)
		}
	})
}

// TestStatisticsAreFresh asks before the driver has given a buffer: what it
// then gives is from before the question.
func TestStatisticsAreFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, featureStats)
		got := make(chan map[string]uint64)
		go func() {
			stats, err := r.dev.Statistics(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- stats
		}()
		synctest.Wait()
		r.Do(statistics, stat(4, 1), 0)
		synctest.Wait()
		r.Send(statistics, [][]byte{stat(4, 2)}, nil)
		if stats := <-got; stats["free_memory"] != 2 {
			t.Errorf("got %v, want the second report", stats)
		}
	})
}

func TestNoStatistics(t *testing.T) {
	r := start(t, 0)
	if _, err := r.dev.Statistics(t.Context()); err != balloon.ErrNoStatistics {
		t.Errorf("got %v", err)
	}
	r.Stop()
	if _, err := r.dev.Statistics(t.Context()); err != balloon.ErrNoStatistics {
		t.Errorf("stopped: got %v", err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	if err := balloon.New(nil, nil, nil).Restore([]byte("no")); err == nil || !strings.Contains(err.Error(), "balloon: restore") {
		t.Errorf("got %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	newDevice := func(*testing.T) virtio.Device {
		return balloon.New(virtiotest.NewMemory(256<<10), &host{}, nil)
	}
	virtiotest.FuzzRestore(f, newDevice, nil,
		slices.Concat(virtiotest.FuzzRequest(inflate, [][]byte{{5, 0, 0, 0}}, nil), virtiotest.FuzzReset, virtiotest.FuzzRequest(deflate, [][]byte{{5, 0, 0, 0}}, nil)),
		[]byte(`{"Target":16,"Actual":5,"Poison":0}`), []byte(`{"Target":4294967295,"Actual":4294967295,"Poison":170}`),
		[]byte(`{"Target":1}`), []byte(`{"Target":1,"Target":2,"Actual":0,"Poison":0}`))
}

func FuzzBalloon(f *testing.F) {
	newDevice := func(*testing.T) virtio.Device {
		return balloon.New(virtiotest.NewMemory(256<<10), &host{}, nil)
	}
	virtiotest.Fuzz(f, newDevice, nil,
		virtiotest.FuzzRequest(inflate, [][]byte{{5, 0, 0, 0, 6, 0, 0, 0}}, nil),
		virtiotest.FuzzRequest(statistics, [][]byte{stat(4, 4)}, nil),
		slices.Concat(virtiotest.FuzzRequest(3, nil, []int{4096, 8192}), virtiotest.FuzzPause, virtiotest.FuzzRequest(deflate, [][]byte{{5, 0, 0, 0}}, nil), virtiotest.FuzzReset))
}
