package vsock

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"bulkhead/virtio"
	"bulkhead/virtio/virtiotest"
)

// fuzzedDevice is on a host where every even port echoes, and the others are refused.
// Pipes stand for sockets: testing/synctest knows when they wait.
func fuzzedDevice(t *testing.T) *Device {
	dial := func(_ context.Context, port uint32) (net.Conn, error) {
		if port%2 == 1 {
			return nil, io.EOF
		}
		ours, theirs := net.Pipe()
		go func() {
			io.Copy(theirs, theirs)
			theirs.Close()
		}()
		return ours, nil
	}
	d, err := New(Options{CID: testCID, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func FuzzVsock(f *testing.F) {
	newDevice := func(t *testing.T) virtio.Device { return fuzzedDevice(t) }
	virtiotest.Fuzz(f, newDevice, nil,
		slices.Concat(fuzzBuffer, fuzzBuffer, fuzzPacket(opRequest, 0, ""), fuzzPacket(opData, 0, "hello"), fuzzPacket(opShutdown, noMore, ""), fuzzBuffer),
		slices.Concat(fuzzBuffer, fuzzPacket(opRequest, 0, ""), virtiotest.FuzzPause, fuzzPacket(opData, 0, "hello"), fuzzBuffer, virtiotest.FuzzReset, fuzzPacket(opData, 0, "x")),
		slices.Concat(fuzzPacket(opRequest, 0, ""), fuzzPacket(opRequest, 0, ""), fuzzPacket(opCreditRequest, 0, ""), fuzzPacket(opReset, 0, ""), fuzzBuffer, fuzzBuffer),
		slices.Concat(fuzzPacket(opRequest, 0, ""), fuzzPacket(opShutdown, noReceive, ""), fuzzPacket(opShutdown, noSend, ""), fuzzPacket(opResponse, 0, ""), fuzzBuffer),
	)
}

// FuzzRestored is FuzzVsock for a driver that is to be told of a restore.
func FuzzRestored(f *testing.F) {
	newDevice := func(t *testing.T) virtio.Device {
		d := fuzzedDevice(t)
		if err := d.Restore([]byte{stateVersion, 1}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	event := virtiotest.FuzzRequest(eventQueue, nil, []int{8})
	virtiotest.Fuzz(f, newDevice, nil,
		slices.Concat(event, event, fuzzBuffer, fuzzPacket(opRequest, 0, ""), event, fuzzPacket(opData, 0, "hello"), fuzzBuffer),
		slices.Concat(fuzzPacket(opRequest, 0, ""), fuzzBuffer, event, virtiotest.FuzzPause, event, virtiotest.FuzzPause, event),
		slices.Concat(event, event, fuzzBuffer, virtiotest.FuzzReset, fuzzBuffer, fuzzPacket(opRequest, 0, ""), event),
	)
}

// FuzzRestore is a state that somebody wrote into a snapshot.
func FuzzRestore(f *testing.F) {
	event := virtiotest.FuzzRequest(eventQueue, nil, []int{8})
	virtiotest.FuzzRestore(f, func(t *testing.T) virtio.Device { return fuzzedDevice(t) }, nil,
		slices.Concat(event, fuzzBuffer, fuzzPacket(opRequest, 0, ""), event, virtiotest.FuzzPause, fuzzPacket(opData, 0, "hello"), virtiotest.FuzzReset, event),
		[]byte{stateVersion, 0}, []byte{stateVersion, 1}, []byte{stateVersion, eventSize}, []byte{stateVersion, eventSize + 1}, []byte{stateVersion})
}

func fuzzPacket(op uint16, flags uint32, payload string) []byte {
	h := header{srcCID: testCID, dstCID: hostCID, srcPort: 1, dstPort: 2, len: uint32(len(payload)), kind: stream, op: op, flags: flags, alloc: 100}
	b := h.bytes()
	return virtiotest.FuzzRequest(sendQueue, [][]byte{append(b[:], payload...)}, nil)
}

var fuzzBuffer = virtiotest.FuzzRequest(receiveQueue, nil, []int{128})

// FuzzConnectLine is what a program of the host says first.
func FuzzConnectLine(f *testing.F) {
	f.Add("CONNECT 1024")
	f.Add("connect 4294967295\r")
	f.Fuzz(func(t *testing.T, line string) {
		port, err := parseConnect(line)
		if again, errAgain := parseConnect(fmt.Sprintf("CONNECT %d", port)); err == nil && (errAgain != nil || again != port) {
			t.Errorf("%q is port %d, which is not itself", line, port)
		}
	})
}
