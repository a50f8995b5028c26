package mmio

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Event is an eventfd: a doorbell that KVM can ring (ioeventfd), or an interrupt
// that it takes (irqfd).
//
// Wait blocks its thread in read(2). The runtime's poller would save the thread,
// but costs a second read and a trip through epoll: BenchmarkDoorbell has 5–11 µs
// there and back for the thread, 7–100 µs for the poller, which is at its
// worst when the other threads have work.
type Event struct {
	fd  int
	buf [8]byte // Wait's, of which there is one at a time
}

// NewEvent is an eventfd that has not been rung.
func NewEvent() (*Event, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mmio: create an eventfd: %w", err)
	}
	return &Event{fd: fd}, nil
}

// FD is the descriptor, to give to KVM.
func (e *Event) FD() int { return e.fd }

// Wait implements virtio.Doorbell.
func (e *Event) Wait() error {
	for {
		if _, err := unix.Read(e.fd, e.buf[:]); err != unix.EINTR {
			return err
		}
	}
}

// Ring implements virtio.Doorbell. The one failure, a count of 2⁶⁴-1, needs no answer.
func (e *Event) Ring() { unix.Write(e.fd, one) }

var one = binary.NativeEndian.AppendUint64(nil, 1)

// Close is called when nobody waits.
func (e *Event) Close() error { return unix.Close(e.fd) }
