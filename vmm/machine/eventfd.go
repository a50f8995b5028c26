package machine

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// eventfd is a counter in the kernel that KVM counts up, or waits for.
type eventfd int

const noEventfd eventfd = -1

// newEventfd makes one. Waiting for it holds a thread, which is woken with one
// system call less than Go's poller would take; there is one a queue.
func newEventfd(waitable bool) (eventfd, error) {
	flags := unix.EFD_CLOEXEC
	if !waitable {
		flags |= unix.EFD_NONBLOCK // a ring never blocks, whatever the count
	}
	fd, err := unix.Eventfd(0, flags)
	if err != nil {
		return noEventfd, os.NewSyscallError("eventfd2", err)
	}
	return eventfd(fd), nil
}

// one is the count 1 as the kernel reads it.
var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// Ring counts up by one.
func (e eventfd) Ring() {
	for {
		// EAGAIN: it has been rung 2⁶⁴ times and is loud enough.
		if _, err := unix.Write(int(e), one); err != unix.EINTR {
			return
		}
	}
}

// Wait returns once for any number of rings.
func (e eventfd) Wait() error {
	var count [8]byte
	for {
		switch _, err := unix.Read(int(e), count[:]); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("machine: wait for a doorbell: %w", err)
		}
	}
}

func (e eventfd) close() error {
	if e == noEventfd {
		return nil
	}
	return os.NewSyscallError("close eventfd", unix.Close(int(e)))
}
