package vsock

import (
	"encoding/binary"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead/virtio"
	"bulkhead/virtio/virtiotest"
)

// restored is a driver whose device was replaced after a snapshot, in a bubble
// of testing/synctest.
type restored struct {
	t      *testing.T
	device *Device
	driver *virtiotest.Driver
	events []*virtiotest.Request
	packet *virtiotest.Request // the next that the driver gets
}

func newRestored(t *testing.T, events int, without uint) *restored {
	t.Helper()
	r := &restored{t: t}
	r.device = r.newDevice()
	r.driver = virtiotest.Start(t, r.device, virtio.FeatureEventIdx)
	if without != 0 {
		r.driver.ResetWithout(without)
	}
	for range events {
		r.giveEvent()
	}
	r.giveBuffer()
	r.restore()
	return r
}

func (r *restored) newDevice() *Device {
	d, err := New(Options{CID: testCID})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { d.Close() })
	return d
}

func (r *restored) giveBuffer() { r.packet = r.driver.Send(receiveQueue, nil, []int{4096}) }

func (r *restored) giveEvent() {
	r.events = append(r.events, r.driver.Send(eventQueue, nil, []int{8}))
}

func (r *restored) restore() {
	r.driver.Stop()
	r.device.Close()
	r.device = r.newDevice()
	r.driver.Replace(r.device)
	synctest.Wait()
}

// connect is a program of the host that wants port 5 of the guest.
func (r *restored) connect() net.Conn {
	r.t.Helper()
	ours, theirs := net.Pipe()
	r.t.Cleanup(func() { theirs.Close() })
	if err := r.device.connect(5, newSocket(ours)); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return theirs
}

func (r *restored) wantNone(when string) {
	r.t.Helper()
	synctest.Wait()
	if r.packet.Done() {
		r.t.Fatalf("%s: the driver got a packet", when)
	}
}

func (r *restored) wantRequest(when string) {
	r.t.Helper()
	synctest.Wait()
	if !r.packet.Done() {
		r.t.Fatalf("%s: the driver got nothing", when)
	}
	if h := decode(r.packet.Wait()); h.op != opRequest || h.dstPort != 5 {
		r.t.Errorf("%s: got %+v, want the request", when, h)
	}
}

// wantEvents is how many of the buffers came back, which are the first.
func (r *restored) wantEvents(n int) {
	r.t.Helper()
	synctest.Wait()
	for i, e := range r.events {
		if e.Done() != (i < n) {
			r.t.Fatalf("event buffer %d: used is %v, want the first %d to be", i, e.Done(), n)
		}
		if i < n && binary.LittleEndian.Uint32(e.Wait()) != eventReset {
			r.t.Errorf("event %d is % x, want TRANSPORT_RESET", i, e.Wait())
		}
	}
}

// linuxEvents is how many buffers Linux has in the event queue (net/vmw_vsock/virtio_transport.c, event_list).
const linuxEvents = 8

// TestRestoredOrder: a restored driver gets the host's connection after it has read the
// event, upon which it ends all that it has.
func TestRestoredOrder(t *testing.T) {
	cases := []struct {
		name    string
		events  int
		without uint
		then    func(*restored)
	}{
		{"the event is read", linuxEvents, 0, func(r *restored) {
			r.connect()
			r.wantNone("before it gave the event back")
			r.wantEvents(1)
			r.giveEvent()
			r.wantRequest("after it gave the event back")
		}},
		{"there is one buffer", 1, 0, func(r *restored) {
			r.connect()
			r.wantNone("before it gave the event back")
			r.giveEvent()
			r.wantRequest("after it gave the event back")
		}},
		{"the event queue is full", eventSize, 0, func(r *restored) {
			r.connect()
			r.wantNone("before it gave the event back")
			r.wantEvents(1)
			r.giveEvent()
			r.wantRequest("after it gave the event back")
		}},
		{"it is read before anybody connects", linuxEvents, 0, func(r *restored) {
			r.giveEvent()
			r.wantNone("without a connection")
			r.connect()
			r.wantRequest("after it gave the event back")
		}},
		{"a pause comes between", linuxEvents, 0, func(r *restored) {
			for range 2 {
				r.connect()
				r.driver.Stop()
				r.driver.Restart()
				r.wantNone("after a pause")
			}
			r.wantEvents(1)
			r.giveEvent()
			r.wantRequest("after it gave the event back")
		}},
		{"it is given back in a pause", linuxEvents, 0, func(r *restored) {
			r.connect()
			r.driver.Stop()
			r.giveEvent()
			r.driver.Restart()
			r.wantRequest("after the pause")
		}},
		{"another snapshot comes between", linuxEvents, 0, func(r *restored) {
			r.restore()
			r.connect()
			r.wantEvents(2)
			r.giveEvent()
			r.wantNone("after it gave the first event back")
			r.giveEvent()
			r.wantRequest("after it gave the second event back")
		}},
		{"the guest connects, too", linuxEvents, 0, func(r *restored) {
			h := header{srcCID: testCID, dstCID: hostCID, srcPort: 9, dstPort: 9, kind: stream, op: opRequest}
			b := h.bytes()
			r.driver.Do(sendQueue, b[:], 0)
			r.wantNone("before it gave the event back")
			r.giveEvent()
			synctest.Wait()
			if !r.packet.Done() || decode(r.packet.Wait()).op != opReset {
				r.t.Error("no refusal came after the event")
			}
		}},
		{"the driver is reset", linuxEvents, 0, func(r *restored) {
			r.driver.Reset()
			r.giveBuffer()
			r.connect()
			r.wantRequest("to a new driver")
		}},
		{"there is no event queue", 0, 1 << eventQueue, func(r *restored) {
			r.connect()
			r.wantRequest("where there is nothing to wait for")
		}},
		{"the driver keeps the event", linuxEvents, 0, func(r *restored) {
			r.connect()
			time.Sleep(eventTime - time.Nanosecond)
			r.wantNone("while it has time")
			time.Sleep(time.Nanosecond)
			r.wantRequest("when its time is over")
			r.driver.Stop()
			r.giveBuffer()
			r.driver.Restart()
			r.connect()
			r.wantRequest("after a pause")
		}},
		{"the driver has no buffer until late", 0, 0, func(r *restored) {
			early := r.connect()
			r.wantNone("while it has time")
			time.Sleep(eventTime)
			r.wantRequest("when its time is over")
			r.giveBuffer()
			r.giveEvent()
			r.wantEvents(1)
			if n, err := early.Read(make([]byte, 1)); err == nil {
				t.Errorf("the connection that the event ends read %d bytes", n)
			}
			r.connect()
			r.wantNone("before it gave the late event back")
			r.giveEvent()
			r.wantRequest("after it gave the late event back")
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.then(newRestored(t, c.events, c.without)) })
		})
	}
}
