package net

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	hostnet "net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/virtio"
	"bulkhead/virtio/ratelimit"
	"bulkhead/virtio/virtiotest"
)

const all = ^uint64(0) // features

// wire is a device whose ports are datagram sockets in place of a TAP: they too
// carry a frame a read or write.
type wire struct {
	*Device
	peers []*os.File

	mu       sync.Mutex
	offloads uint64
	attached []bool
}

func (w *wire) offload(features uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offloads = features
	return nil
}

func (w *wire) attach(i int, on bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attached[i] = on
	return nil
}

func (*wire) header() int         { return headerSize }
func (*wire) lacks() uint64       { return 0 }
func (*wire) admits(*header) bool { return true }
func (w *wire) String() string    { return "wire" }

// state is what the device told its host.
func (w *wire) state() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%#x %v", w.offloads, w.attached)
}

func newWire(t testing.TB, pairs int, o Options) *wire {
	t.Helper()
	w := &wire{attached: make([]bool, pairs)}
	var ports []port
	for range pairs {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		port, err := newPort(fds[0], "wire")
		if err != nil {
			t.Fatal(err)
		}
		ports, w.peers = append(ports, port), append(w.peers, os.NewFile(uintptr(fds[1]), "peer"))
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	o.Log = slog.New(slog.DiscardHandler)
	w.Device = newDevice(w, ports, o)
	t.Cleanup(func() {
		w.Close()
		for _, p := range w.peers {
			p.Close()
		}
	})
	return w
}

// next is the next frame at the peer, with its header.
func (w *wire) next(t testing.TB, i int) []byte {
	t.Helper()
	b := make([]byte, 1<<17)
	n, err := w.peers[i].Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func (w *wire) put(t testing.TB, i int, h header, frame []byte) {
	t.Helper()
	if _, err := w.peers[i].Write(append(h[:], frame...)); err != nil {
		t.Fatal(err)
	}
}

func frameOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// checksum is a header that leaves a checksum to the other side.
func checksum(start, offset int) header {
	h := header{0: needsCsum}
	binary.LittleEndian.PutUint16(h[6:], uint16(start))
	binary.LittleEndian.PutUint16(h[8:], uint16(offset))
	return h
}

// segments is one that leaves segmentation to it as well.
func segments(kind byte, headers, size int) header {
	h := checksum(34, 16)
	h[1] = kind
	binary.LittleEndian.PutUint16(h[2:], uint16(headers))
	binary.LittleEndian.PutUint16(h[4:], uint16(size))
	return h
}

// TestSend divides header and frame in every manner (§2.7.4.1).
func TestSend(t *testing.T) {
	w := newWire(t, 1, Options{})
	d := virtiotest.Start(t, w, all)
	h, frame := segments(gsoTCP4, 54, 1448), frameOf(3000)
	request := append(h[:], frame...)
	for _, cuts := range [][]int{{3012}, {12, 3000}, {5, 3007}, {11, 2, 2999}, {1, 1, 1, 1, 3008}} {
		var out [][]byte
		for rest := request; len(cuts) > 0; cuts = cuts[1:] {
			out, rest = append(out, rest[:cuts[0]]), rest[cuts[0]:]
		}
		r := d.Send(1, out, nil)
		if got := w.next(t, 0); !bytes.Equal(got, request) {
			t.Errorf("as %d descriptors: %d bytes arrive, or others, want %d", len(out), len(got), len(request))
		}
		r.Wait()
	}
	if s := w.Stats(); s != (Stats{Sent: 5, SentBytes: 15000}) {
		t.Errorf("counted %+v", s)
	}
}

func TestParseHeader(t *testing.T) {
	const tso = FeatureCsum | FeatureHostTSO4 | FeatureHostTSO6
	long := segments(gsoTCP4, 54, 1448)
	long[10] = 9 // num_buffers, which says nothing here
	dirty := header{0: 2 | 4 | 0x80, 2: 1, 4: 1, 6: 1, 8: 1, 10: 1}
	for _, row := range []struct {
		name     string
		raw      header
		n        int
		features uint64
		want     header
		err      error
	}{
		{"nothing to do", header{}, 60, 0, header{}, nil},
		{"fields that do not matter", dirty, 60, all, header{}, nil},
		{"runt", header{}, 13, all, header{}, errLength},
		{"giant", header{}, maxFrame + 1, all, header{}, errLength},
		{"the largest", header{}, maxFrame, all, header{}, nil},
		{"checksum", checksum(34, 16), 60, FeatureCsum, checksum(34, 16), nil},
		{"checksum, not negotiated", checksum(34, 16), 60, 0, header{}, errNoCsum},
		{"checksum at the end", checksum(34, 24), 60, FeatureCsum, checksum(34, 24), nil},
		{"checksum past the end", checksum(34, 25), 60, FeatureCsum, header{}, errCsumAt},
		{"checksum far away", checksum(0xffff, 0xffff), 60, FeatureCsum, header{}, errCsumAt},
		{"checksum of the addresses", checksum(13, 0), 60, FeatureCsum, header{}, errCsumAt},
		{"TSO4", long, 3000, tso, segments(gsoTCP4, 54, 1448), nil},
		{"TSO6", segments(gsoTCP6, 74, 1428), 3000, tso, segments(gsoTCP6, 74, 1428), nil},
		{"TSO4, not negotiated", long, 3000, FeatureCsum | FeatureHostTSO6, header{}, errGSO},
		{"TSO with ECN", segments(gsoTCP4|gsoECN, 54, 1448), 3000, tso | FeatureHostECN, segments(gsoTCP4|gsoECN, 54, 1448), nil},
		{"TSO with ECN, not negotiated", segments(gsoTCP4|gsoECN, 54, 1448), 3000, tso, header{}, errGSO},
		{"ECN of nothing", segments(gsoECN, 54, 1448), 3000, all, header{}, errGSO},
		{"UFO", segments(3, 54, 1448), 3000, all, header{}, errGSO},
		{"USO", segments(5, 54, 1448), 3000, all, header{}, errGSO},
		{"no such kind", segments(0x7f, 54, 1448), 3000, all, header{}, errGSO},
		{"into segments of 0", segments(gsoTCP4, 54, 0), 3000, tso, header{}, errGSOEmpty},
		{"TSO without a checksum", header{1: gsoTCP4, 2: 54, 4: 100}, 3000, tso, header{}, errGSOEmpty},
		{"headers past the end", segments(gsoTCP4, 3001, 1448), 3000, tso, header{}, errGSOLong},
	} {
		got, err := parseHeader(row.raw, row.n, row.features)
		if err != row.err || err == nil && got != row.want {
			t.Errorf("%s: % x, %v; want % x, %v", row.name, got, err, row.want, row.err)
		}
	}
}

// TestSendDrops: a frame that may not pass is used all the same.
func TestSendDrops(t *testing.T) {
	w := newWire(t, 1, Options{})
	d := virtiotest.Start(t, w, 0)
	bad := checksum(34, 16)
	d.Do(1, append(bad[:], frameOf(60)...), 0)
	d.Do(1, append(make([]byte, headerSize), frameOf(60)...), 0)
	if got := w.next(t, 0); len(got) != headerSize+60 || got[0] != 0 {
		t.Errorf("the first frame to arrive is % x", got)
	}
	if s := w.Stats(); s.SendDropped != 1 || s.Sent != 1 {
		t.Errorf("counted %+v", s)
	}
}

func TestHostile(t *testing.T) {
	for _, row := range []struct {
		name  string
		queue int
		out   int
		in    int
		want  error
	}{
		{"half a header to send", 1, 11, 0, errHeader},
		{"nothing to send", 1, 0, 0, errHeader},
		{"no room to receive", 0, 0, 11, errBuffer},
		{"a receive buffer to read", 0, 100, 0, errBuffer},
		{"half a command", 2, 1, 1, errCommand},
		{"a command without room for an answer", 2, 3, 0, errCommand},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWire(t, 1, Options{})
			d := virtiotest.Start(t, w, all&^FeatureMultiQueue)
			d.Do(row.queue, make([]byte, row.out), row.in)
			if err := d.WaitFailed(); err == nil || !strings.Contains(err.Error(), row.want.Error()) {
				t.Errorf("failed for %v, want %v", err, row.want)
			}
			d.Reset()
			d.Do(1, append(make([]byte, headerSize), frameOf(60)...), 0)
			w.next(t, 0)
		})
	}
}

func TestReceive(t *testing.T) {
	for _, row := range []struct {
		name     string
		features uint64
		sent     header
		want     header
	}{
		{"plain", 0, header{}, header{10: 1}},
		{"flags that the driver knows", FeatureGuestCsum, checksum(34, 16), header{0: 1, 6: 34, 8: 16, 10: 1}},
		{"flags that it does not", 0, header{0: 2}, header{10: 1}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWire(t, 1, Options{})
			d := virtiotest.Start(t, w, row.features)
			for _, cuts := range [][]int{{1600}, {12, 1588}, {5, 5, 5, 1585}, {11, 1589}, {112}} {
				r := d.Send(0, nil, cuts)
				w.put(t, 0, row.sent, frameOf(100))
				if got, want := r.Wait(), append(row.want[:], frameOf(100)...); !bytes.Equal(got, want) {
					t.Errorf("into %v: % x…, want % x…", cuts, got[:min(20, len(got))], want[:20])
				}
			}
			if s := w.Stats(); s != (Stats{Received: 5, ReceivedBytes: 500}) {
				t.Errorf("counted %+v", s)
			}
		})
	}
}

// TestReceiveDrops: what does not fit, or is no frame, does not arrive.
func TestReceiveDrops(t *testing.T) {
	w := newWire(t, 1, Options{})
	d := virtiotest.Start(t, w, 0)
	r := d.Send(0, nil, []int{12 + 100})
	w.put(t, 0, header{}, frameOf(101))
	w.put(t, 0, header{}, frameOf(13))
	w.put(t, 0, header{}, frameOf(100))
	if got := r.Wait(); !bytes.Equal(got[headerSize:], frameOf(100)) {
		t.Errorf("arrived: %d bytes", len(got))
	}
	if s := w.Stats(); s.ReceiveDropped != 2 || s.Received != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestMerge spreads frames over buffers of all sizes (§5.1.6.4).
func TestMerge(t *testing.T) {
	w := newWire(t, 1, Options{})
	d := virtiotest.Start(t, w, FeatureMergeable|FeatureGuestTSO4|FeatureGuestCsum)
	for _, row := range []struct {
		frame   int
		buffers []int
	}{
		{100, []int{112}}, {101, []int{112, 12}}, {60000, []int{12, 1500, 1500, 60000}},
		{300, []int{12, 12, 12, 12, 4096}}, {65549, []int{20000, 20000, 20000, 20000}},
	} {
		var requests []*virtiotest.Request
		w.put(t, 0, header{}, frameOf(row.frame)) // it is read before it has room
		for _, n := range row.buffers {
			requests = append(requests, d.Send(0, nil, []int{n}))
		}
		var got []byte
		for _, r := range requests {
			got = append(got, r.Wait()...)
		}
		want := header{10: byte(len(row.buffers))}
		if !bytes.Equal(got, append(want[:], frameOf(row.frame)...)) {
			t.Errorf("%d bytes into %v: %d bytes with header % x", row.frame, row.buffers, len(got), got[:headerSize])
		}
	}
}

// TestMergeNoRoom fills the whole queue with buffers that a frame has no room in.
func TestMergeNoRoom(t *testing.T) {
	w := newWire(t, 1, Options{})
	d := virtiotest.Start(t, w, FeatureMergeable)
	first := d.Send(0, nil, []int{12})
	for range queueSize - 1 {
		d.Send(0, nil, []int{12})
	}
	w.put(t, 0, header{}, frameOf(5000))
	w.put(t, 0, header{}, frameOf(14))
	if got := first.Wait(); len(got) != 12 || got[10] != 3 {
		t.Errorf("the frame that fits begins with % x", got)
	}
	if s := w.Stats(); s.ReceiveDropped != 1 || s.Received != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestPause stops the device with buffers held and frames on their way.
func TestPause(t *testing.T) {
	w := newWire(t, 1, Options{})
	d := virtiotest.Start(t, w, all)
	for i := range 30 {
		r := d.Send(0, nil, []int{2000})
		d.Stop()
		d.Restart()
		s := d.Send(1, [][]byte{make([]byte, headerSize), frameOf(100 + i)}, nil)
		w.put(t, 0, header{}, frameOf(60+i))
		d.Stop()
		d.Restart()
		if got := r.Wait(); !bytes.Equal(got[headerSize:], frameOf(60+i)) {
			t.Fatalf("round %d: received %d bytes", i, len(got))
		}
		s.Wait()
		if got := w.next(t, 0); !bytes.Equal(got[headerSize:], frameOf(100+i)) {
			t.Fatalf("round %d: sent %d bytes", i, len(got))
		}
	}
}

// TestStopWhileFull stops a sender whose host takes no more.
func TestStopWhileFull(t *testing.T) {
	w := newWire(t, 1, Options{})
	d := virtiotest.Start(t, w, all)
	var requests []*virtiotest.Request
	for range 100 { // more than a socket's 200 KB
		requests = append(requests, d.Send(1, [][]byte{make([]byte, headerSize), frameOf(60000)}, nil))
	}
	requests[0].Wait()
	d.Stop()
	if last := requests[len(requests)-1]; last.Done() {
		t.Fatal("100 frames of 60 KB were sent into a full socket")
	}
	d.Restart()
	for range requests {
		w.next(t, 0)
	}
	requests[len(requests)-1].Wait()
}

func TestControl(t *testing.T) {
	table := func(words ...uint32) []byte {
		b := []byte{1, 0}
		for _, n := range words {
			b = binary.LittleEndian.AppendUint32(b, n)
			b = append(b, make([]byte, 6*min(n, 3))...)
		}
		return b
	}
	for _, row := range []struct {
		name     string
		features uint64
		command  []byte
		want     byte
		state    string // of the host; if empty, as before
	}{
		{"promiscuous", all, []byte{0, 0, 1}, ackOK, ""},
		{"all multicast", all, []byte{0, 1, 1}, ackOK, ""},
		{"promiscuous, of nothing", all, []byte{0, 0}, ackError, ""},
		{"extra receive mode, not offered", all, []byte{0, 2, 1}, ackError, ""},
		{"receive mode, not negotiated", all &^ FeatureControlRx, []byte{0, 0, 1}, ackError, ""},
		{"addresses", all, table(1, 3), ackOK, ""},
		{"no addresses", all, table(0, 0), ackOK, ""},
		{"half a table", all, table(1), ackError, ""},
		{"a table that lies", all, table(0, 1<<31), ackError, ""},
		{"address", all, []byte{1, 1, 2, 3, 4, 5, 6, 7}, ackOK, ""},
		{"half an address", all, []byte{1, 1, 2, 3, 4, 5, 6}, ackError, ""},
		{"VLAN, not offered", all, []byte{2, 0, 1, 0}, ackError, ""},
		{"two pairs", all, []byte{4, 0, 2, 0}, ackOK, "0x382 [true true]"},
		{"no pair", all, []byte{4, 0, 0, 0}, ackError, ""},
		{"three pairs of two", all, []byte{4, 0, 3, 0}, ackError, ""},
		{"offloads", all, []byte{5, 0, 2, 0, 0, 0, 0, 0, 0, 0}, ackOK, "0x2 [true false]"},
		{"offloads that were not negotiated", all, []byte{5, 0, 0, 4, 0, 0, 0, 0, 0, 0}, ackError, ""},
		{"no such class", all, []byte{99, 0, 1}, ackError, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWire(t, 2, Options{})
			d := virtiotest.Start(t, w, row.features)
			if got := d.Do(4, row.command, 1); !bytes.Equal(got, []byte{row.want}) {
				t.Errorf("answer %v, want %d", got, row.want)
			}
			if row.state == "" {
				row.state = "0x382 [true false]"
			}
			if got := w.state(); got != row.state {
				t.Errorf("the host was told %s, want %s", got, row.state)
			}
			if row.name == "address" && w.MAC().String() != "02:03:04:05:06:07" {
				t.Errorf("MAC %v", w.MAC())
			}
			d.Reset()
			if got := w.state(); got != "0x382 [true false]" && row.features == all {
				t.Errorf("after a reset the host was told %s", got)
			}
		})
	}
}

// TestPairs starts and ends the second pair under way.
func TestPairs(t *testing.T) {
	w := newWire(t, 2, Options{})
	d := virtiotest.Start(t, w, all)
	frame := append(make([]byte, headerSize), frameOf(60)...)
	second := d.Send(3, [][]byte{frame}, nil)
	for i := range 5 {
		d.Do(4, []byte{4, 0, 2, 0}, 1)
		w.next(t, 1)
		second.Wait()
		r := d.Send(2, nil, []int{2000})
		w.put(t, 1, header{}, frameOf(99+i))
		if got := r.Wait(); !bytes.Equal(got[headerSize:], frameOf(99+i)) {
			t.Fatalf("the second pair received %d bytes", len(got))
		}
		d.Do(4, []byte{4, 0, 1, 0}, 1)
		if w.mu.Lock(); w.attached[1] || w.pairs[1].running {
			t.Errorf("the second pair is attached: %v, and runs: %v", w.attached[1], w.pairs[1].running)
		}
		w.mu.Unlock()
		second = d.Send(3, [][]byte{frame}, nil)
		d.Do(1, frame, 0)
		w.next(t, 0)
		if second.Done() {
			t.Fatal("a pair that is not in use sent a frame")
		}
	}
	d.Do(4, []byte{4, 0, 2, 0}, 1)
	d.Stop()
	d.Restart() // as after a pause: both go on
	d.Do(3, frame, 0)
}

// TestControlWithoutMQ finds the control queue behind the first pair (§5.1.2).
func TestControlWithoutMQ(t *testing.T) {
	w := newWire(t, 3, Options{})
	d := virtiotest.Start(t, w, all&^FeatureMultiQueue)
	if got := d.Do(2, []byte{0, 0, 1}, 1); !bytes.Equal(got, []byte{ackOK}) {
		t.Errorf("answer %v", got)
	}
}

func TestConfig(t *testing.T) {
	w := newWire(t, 3, Options{MTU: 9000, MAC: hostnet.HardwareAddr{2, 1, 2, 3, 4, 5}})
	b := make([]byte, 16)
	w.ReadConfig(0, b)
	want := []byte{2, 1, 2, 3, 4, 5, 1, 0, 3, 0, 0x28, 0x23, 0, 0, 0, 0}
	if !bytes.Equal(b, want) {
		t.Errorf("configuration % x, want % x", b, want)
	}
	if w.ReadConfig(10, b[:2]); !bytes.Equal(b[:2], want[10:12]) {
		t.Errorf("MTU by itself: % x", b[:2])
	}
	if w.ReadConfig(1<<32-1, b); !bytes.Equal(b, make([]byte, 16)) {
		t.Errorf("far past the end: % x", b)
	}
}

func TestRandomMAC(t *testing.T) {
	one, two := RandomMAC(), RandomMAC()
	if one[0]&3 != 2 || bytes.Equal(one, two) {
		t.Errorf("%v and %v: want two that are locally administered", one, two)
	}
}

func TestKeeper(t *testing.T) {
	first := newWire(t, 2, Options{MAC: hostnet.HardwareAddr{2, 0, 0, 0, 0, 9}})
	d := virtiotest.Start(t, first, all)
	d.Do(4, []byte{4, 0, 2, 0}, 1)
	d.Do(4, []byte{5, 0, 2, 0, 0, 0, 0, 0, 0, 0}, 1)
	second := newWire(t, 2, Options{})
	d.Replace(second)
	if got, want := second.state(), "0x2 [true true]"; got != want {
		t.Errorf("the restored device told its host %s, want %s", got, want)
	}
	if got := second.MAC().String(); got != "02:00:00:00:00:09" {
		t.Errorf("the restored guest has MAC %s", got)
	}
	d.Do(3, append(make([]byte, headerSize), frameOf(60)...), 0)
	second.next(t, 1)

	state, err := second.Save()
	if err != nil {
		t.Fatal(err)
	}
	small := newWire(t, 1, Options{})
	want := "the guest uses 2 queue pairs, the TAP has 1"
	if err := small.Restore(state); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("restore with fewer queues: %v, want %q", err, want)
	}
	if err := small.Restore(state[1:]); err == nil {
		t.Error("restore from a short state")
	}
}

// TestLimit: a frame that would pass the limit stays, and goes back when the device stops.
func TestLimit(t *testing.T) {
	hardly := ratelimit.Limits{Bytes: ratelimit.Rate{PerSecond: 1, Burst: 1000}}
	w := newWire(t, 1, Options{SendLimit: hardly, ReceiveLimit: hardly})
	d := virtiotest.Start(t, w, all)
	request := [][]byte{make([]byte, headerSize), frameOf(1000)}
	more := [][]byte{make([]byte, headerSize), frameOf(1001)}
	d.Send(1, more, nil).Wait()
	w.next(t, 0)
	held := d.Send(1, request, nil)
	w.put(t, 0, header{}, frameOf(2000))
	d.Do(0, nil, 4000)
	for w.receiveMay.Take(0) == 0 { // until it was charged
		runtime.Gosched()
	}
	w.put(t, 0, header{}, frameOf(60))
	late := d.Send(0, nil, []int{4000})
	d.Stop()
	if held.Done() || late.Done() {
		t.Errorf("frames past the limit: sent %v, received %v", held.Done(), late.Done())
	}
}

// TestNeitherWaits: one direction goes on while the other needs what it does not get.
func TestNeitherWaits(t *testing.T) {
	hardly := ratelimit.Limits{Bytes: ratelimit.Rate{PerSecond: 1, Burst: 1}}
	send := func(d *virtiotest.Driver, n int) *virtiotest.Request {
		return d.Send(1, [][]byte{make([]byte, headerSize), frameOf(n)}, nil)
	}
	for _, row := range []struct {
		name  string
		o     Options
		stuck func(w *wire, d *virtiotest.Driver) *virtiotest.Request // one that does not come through
		sends bool                                                    // what goes on
	}{
		{"a host that takes no more", Options{}, func(_ *wire, d *virtiotest.Driver) (r *virtiotest.Request) {
			for range 100 { // more than a socket's 200 KB
				r = send(d, 60000)
			}
			return r
		}, false},
		{"a limit to sending", Options{SendLimit: hardly}, func(w *wire, d *virtiotest.Driver) *virtiotest.Request {
			send(d, 100).Wait()
			w.next(t, 0)
			return send(d, 100)
		}, false},
		{"no receive buffers", Options{}, func(w *wire, _ *virtiotest.Driver) *virtiotest.Request {
			w.put(t, 0, header{}, frameOf(100))
			return nil
		}, true},
		{"receive buffers that are too few", Options{}, func(w *wire, d *virtiotest.Driver) *virtiotest.Request {
			w.put(t, 0, header{}, frameOf(1000))
			return d.Send(0, nil, []int{100})
		}, true},
		{"a limit to receiving", Options{ReceiveLimit: hardly}, func(w *wire, d *virtiotest.Driver) *virtiotest.Request {
			w.put(t, 0, header{}, frameOf(100))
			d.Do(0, nil, 2000)
			w.put(t, 0, header{}, frameOf(100))
			return d.Send(0, nil, []int{2000})
		}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWire(t, 1, row.o)
			d := virtiotest.Start(t, w, all)
			stuck := row.stuck(w, d)
			for i := range 200 { // more than a turn
				if row.sends {
					send(d, 60+i).Wait()
					if got := w.next(t, 0); !bytes.Equal(got[headerSize:], frameOf(60+i)) {
						t.Fatalf("frame %d: %d bytes sent", i, len(got))
					}
					continue
				}
				w.put(t, 0, header{}, frameOf(60+i))
				if got := d.Do(0, nil, 2000); !bytes.Equal(got[headerSize:], frameOf(60+i)) {
					t.Fatalf("frame %d: %d bytes received", i, len(got))
				}
			}
			if stuck != nil && stuck.Done() {
				t.Error("what was to be stuck came through")
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	for _, row := range []struct {
		o    Options
		want string
	}{
		{Options{}, "network: no TAP; give its name, as in tap=tap0, or none"},
		{Options{Tap: "bh-none"}, "network bh-none: no such interface; make one with: ip tuntap add bh-none mode tap && ip link set bh-none up"},
		{Options{Tap: "x", Pairs: 17}, "network x: 17 queue pairs; give 1 to 16"},
		{Options{Tap: "x", MTU: 67}, "network x: MTU 67; give 68 to 65535"},
		{Options{Tap: "x", MAC: hostnet.HardwareAddr{1, 0, 0, 0, 0, 1}}, "network x: MAC 01:00:00:00:00:01 is a group's; give one with an even first byte, as in 02:00:00:00:00:01"},
		{Options{Tap: "x", MAC: make(hostnet.HardwareAddr, 8)}, "network x: MAC 00:00:00:00:00:00:00:00 has 8 bytes; give 6, as in 02:00:00:00:00:01"},
		{Options{Tap: "x", FDs: []int{0}}, "network x: give the name of a TAP or its descriptors, not both"},
		{Options{FDs: []int{null}}, fmt.Sprintf("network: descriptor %d is not a TAP: inappropriate ioctl for device", null)},
	} {
		if _, err := New(row.o); err == nil || err.Error() != row.want {
			t.Errorf("New(%+v) says\n  %v, want\n  %s", row.o, err, row.want)
		}
	}
}

func TestTunFlags(t *testing.T) {
	for _, row := range []struct {
		features uint64
		want     int
	}{
		{0, 0}, {FeatureGuestCsum, unix.TUN_F_CSUM}, {FeatureGuestTSO4, 0}, {FeatureGuestECN | FeatureGuestCsum, unix.TUN_F_CSUM},
		{guestOffloads, unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN},
	} {
		if got := tunFlags(row.features); got != row.want {
			t.Errorf("features %#x: %#x, want %#x", row.features, got, row.want)
		}
	}
}

// bench passes frames through a device without allocation of its own.
type bench struct {
	*wire
	driver *virtiotest.Driver
	frame  []byte
	heads  []uint16
	peer   int
}

func newBench(t testing.TB, n, queue int) *bench {
	w := newWire(t, 1, Options{})
	b := &bench{wire: w, driver: virtiotest.Start(t, w, FeatureCsum), frame: make([]byte, headerSize+n), peer: int(w.peers[0].Fd())}
	if err := unix.SetNonblock(b.peer, true); err != nil {
		t.Fatal(err)
	}
	ring := b.driver.Ring(queue)
	for i := range 8 {
		desc := virtiotest.Desc{Addr: b.driver.Memory.Alloc(len(b.frame)), Len: uint32(len(b.frame))}
		if queue == 0 {
			desc.Flags = virtiotest.Write
		}
		ring.SetDesc(uint16(i), desc)
		b.heads = append(b.heads, uint16(i))
	}
	return b
}

func (b *bench) send() {
	ring := b.driver.Ring(1)
	ring.Offer(b.heads...)
	b.driver.Kick(1)
	for left := len(b.heads); left > 0; {
		if _, err := unix.Read(b.peer, b.frame); err == nil {
			left--
		} else {
			runtime.Gosched()
		}
	}
	b.reap(1)
}

func (b *bench) receive() {
	b.driver.Ring(0).Offer(b.heads...)
	b.driver.Kick(0)
	for range b.heads {
		unix.Write(b.peer, b.frame)
	}
	b.reap(0)
}

func (b *bench) reap(queue int) {
	for left := len(b.heads); left > 0; {
		if _, _, ok := b.driver.Ring(queue).Reap(); ok {
			left--
		} else {
			runtime.Gosched()
		}
	}
}

func TestNoAllocation(t *testing.T) {
	sends, receives := newBench(t, 1500, 1), newBench(t, 1500, 0)
	for name, round := range map[string]func(){"send": sends.send, "receive": receives.receive} {
		round()
		if n := testing.AllocsPerRun(100, round); n >= 1 {
			t.Errorf("%s: %v allocations for 8 frames", name, n)
		}
	}
}

func BenchmarkDevice(b *testing.B) {
	for _, n := range []int{60, 1514, 17000} {
		sends, receives := newBench(b, n, 1), newBench(b, n, 0)
		for name, round := range map[string]func(){"send": sends.send, "receive": receives.receive} {
			b.Run(fmt.Sprintf("%s-%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(8 * n))
				b.ReportAllocs()
				for b.Loop() {
					round()
				}
				b.ReportMetric(float64(b.N*8)/b.Elapsed().Seconds(), "frames/s")
			})
		}
	}
}

// FuzzNet sends frames and commands of any content: what arrives at the host
// is well formed, and the device lives or fails for a reason.
func FuzzNet(f *testing.F) {
	good := segments(gsoTCP4, 54, 1448)
	f.Add(1, append(good[:], frameOf(200)...), uint8(12), uint64(1<<63-1))
	f.Add(1, append(make([]byte, 12), frameOf(60)...), uint8(3), uint64(0))
	f.Add(4, []byte{4, 0, 2, 0}, uint8(1), uint64(1<<63-1))
	f.Add(4, []byte{1, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0}, uint8(7), uint64(1<<63-1))
	f.Add(4, []byte{5, 0, 2, 0, 0, 0, 0, 0, 0, 0}, uint8(0), uint64(1<<63-1))
	f.Add(0, []byte{}, uint8(14), uint64(1<<63-1))
	f.Fuzz(func(t *testing.T, queue int, out []byte, cut uint8, features uint64) {
		if len(out) > 1<<16 || queue < 0 || queue > 4 {
			return
		}
		w := newWire(t, 2, Options{})
		// With these both the control queue's place and the end of it are known.
		features |= FeatureControl | FeatureMultiQueue
		d := virtiotest.StartIn(t, virtiotest.NewMemory(1<<20), w, features)
		at := min(int(cut), len(out))
		var ins []int
		switch queue {
		case 0:
			ins = []int{int(cut)}
			w.put(t, 0, header{}, frameOf(60))
		case 4:
			ins = []int{1}
		}
		sent := queue&1 == 1
		if queue == 2 || queue == 3 {
			d.Do(4, []byte{4, 0, 2, 0}, 1) // else nobody serves the second pair
		}
		if queue == 2 {
			ins = []int{int(cut)}
			w.put(t, 1, header{}, frameOf(60))
		}
		r := d.Send(queue, [][]byte{out[:at], out[at:]}, ins)
		if !sent && queue != 4 && cut >= headerSize && int(cut) < headerSize+60 && len(ins) > 0 {
			d.Stop() // too small for the frame, so it stays
			return
		}
		answer := r.Wait()
		if d.Failed() != nil {
			return
		}
		if queue == 4 && (len(answer) != 1 || answer[0] > ackError) {
			t.Fatalf("answer %v", answer)
		}
		if sent && w.Stats().Sent == 1 {
			got := w.next(t, queue/2)
			if _, err := parseHeader(header(got), len(got)-headerSize, d.Features); err != nil {
				t.Fatalf("the host got a frame that is refused: %v", err)
			}
		}
		d.Stop()
	})
}

// FuzzRestore is a state that somebody wrote into a snapshot.
func FuzzRestore(f *testing.F) {
	frame := append(make([]byte, headerSize), frameOf(60)...)
	var w *wire
	state := func(chosen byte, offloads uint64, pairs uint16, rx byte) []byte {
		b := append([]byte{chosen}, 2, 0, 0, 0, 0, 1)
		b = binary.LittleEndian.AppendUint64(b, offloads)
		return append(binary.LittleEndian.AppendUint16(b, pairs), rx)
	}
	virtiotest.FuzzRestore(f, func(t *testing.T) virtio.Device {
		w = newWire(t, 2, Options{})
		return w
	}, func(*virtiotest.Driver) {
		w.peers[0].Write(frame)
	},
		slices.Concat(virtiotest.FuzzRequest(0, nil, []int{2000}), virtiotest.FuzzRequest(1, [][]byte{frame}, nil), virtiotest.FuzzPause,
			virtiotest.FuzzRequest(4, [][]byte{{4, 0, 2, 0}}, []int{1}), virtiotest.FuzzReset, virtiotest.FuzzRequest(0, nil, []int{2000})),
		state(1, guestOffloads, 2, 3), state(0, 0, 1, 0), state(1, 0, 0, 0), state(1, 0, 3, 0), state(1, ^uint64(0), 1, 0), state(2, 0, 1, 0), state(1, 0, 1, 4))
}

// FuzzDriver is a driver that breaks every rule, while frames arrive.
func FuzzDriver(f *testing.F) {
	frame := append(make([]byte, headerSize), frameOf(60)...)
	var w *wire
	virtiotest.Fuzz(f, func(t *testing.T) virtio.Device {
		w = newWire(t, 2, Options{})
		return w
	}, func(*virtiotest.Driver) {
		w.peers[0].Write(frame)
		w.peers[1].Write(frame[:20])
	},
		slices.Concat(
			virtiotest.FuzzRequest(0, nil, []int{2000}), virtiotest.FuzzRequest(1, [][]byte{frame}, nil), virtiotest.FuzzPause,
			virtiotest.FuzzRequest(4, [][]byte{{4, 0, 2, 0}}, []int{1}), virtiotest.FuzzRequest(2, nil, []int{40, 40}),
			virtiotest.FuzzRequest(3, [][]byte{frame[:5], frame[5:]}, nil), virtiotest.FuzzReset, virtiotest.FuzzRequest(0, nil, []int{2000})),
		virtiotest.FuzzRequest(0, nil, []int{11}),
		virtiotest.FuzzRequest(4, [][]byte{{1}}, []int{1}))
}
