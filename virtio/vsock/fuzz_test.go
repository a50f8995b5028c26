package vsock

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"bulkhead/virtio"
	"bulkhead/virtio/virtiotest"
)

// FuzzVsock has a host where every even port echoes, and the others are refused.
// Pipes stand for sockets: testing/synctest knows when they wait.
func FuzzVsock(f *testing.F) {
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
	newDevice := func(t *testing.T) virtio.Device {
		d, err := New(Options{CID: testCID, Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	packet := func(op uint16, flags uint32, payload string) []byte {
		h := header{srcCID: testCID, dstCID: hostCID, srcPort: 1, dstPort: 2, len: uint32(len(payload)), kind: stream, op: op, flags: flags, alloc: 100}
		b := h.bytes()
		return virtiotest.FuzzRequest(sendQueue, [][]byte{append(b[:], payload...)}, nil)
	}
	buffer := virtiotest.FuzzRequest(receiveQueue, nil, []int{128})
	join := func(steps ...[]byte) (all []byte) {
		for _, s := range steps {
			all = append(all, s...)
		}
		return all
	}
	virtiotest.Fuzz(f, newDevice, nil,
		join(buffer, buffer, packet(opRequest, 0, ""), packet(opData, 0, "hello"), packet(opShutdown, noMore, ""), buffer),
		join(buffer, packet(opRequest, 0, ""), virtiotest.FuzzPause, packet(opData, 0, "hello"), buffer, virtiotest.FuzzReset, packet(opData, 0, "x")),
		join(packet(opRequest, 0, ""), packet(opRequest, 0, ""), packet(opCreditRequest, 0, ""), packet(opReset, 0, ""), buffer, buffer),
		join(packet(opRequest, 0, ""), packet(opShutdown, noReceive, ""), packet(opShutdown, noSend, ""), packet(opResponse, 0, ""), buffer),
	)
}

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
