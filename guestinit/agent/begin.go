package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// begin gives the guest what is its own: time, random numbers, its network, its disks, and
// the share with its containers' files. It may be a copy of a guest that stood here yesterday.
func (s *server) begin(r *rpc.BeginRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return errors.New("it has begun already")
	}
	if err := setTime(r.Time); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	if err := seed(r.Entropy); err != nil {
		return fmt.Errorf("seed the kernel's random numbers: %w", err)
	}
	if err := setNetwork(r.Interfaces); err != nil {
		return err
	}
	if err := mountShare(); err != nil {
		return err
	}
	var err error
	if s.disks, err = disks.take(int(r.Disks)); err != nil {
		return err
	}
	s.begun = true
	return nil
}

func setTime(ns int64) error {
	ts := unix.NsecToTimespec(ns)
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// mostEntropy is more than any pool takes in.
const mostEntropy = 1 << 10 // bytes

// seed has what is drawn from now on depend on entropy: what is written is mixed into
// the pool, and RNDRESEEDCRNG draws a new key from there (random(4)).
func seed(entropy []byte) error {
	if len(entropy) == 0 || len(entropy) > mostEntropy {
		return fmt.Errorf("%d bytes of entropy, want 1 to %d", len(entropy), mostEntropy)
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(entropy); err != nil {
		return err
	}
	// ENODATA: there is no key yet, and whoever wants random numbers waits for one.
	if err := unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0); err != nil && err != unix.ENODATA {
		return os.NewSyscallError("RNDRESEEDCRNG", err)
	}
	return nil
}

func mountShare() error {
	if err := os.MkdirAll(shared, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(Tag, shared, "virtiofs", 0, ""); err != nil {
		return blame(fmt.Errorf("mount the share %s: %w", Tag, err))
	}
	return nil
}
