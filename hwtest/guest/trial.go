package guest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"bulkhead/kvm"
)

// Status is how a trial ended.
type Status string

const (
	Works  Status = "works"
	Fails  Status = "fails"
	Hangs  Status = "hangs"  // the guest had to be kicked
	Stuck  Status = "stuck"  // and the kick did not help: one thread is lost
	Absent Status = "absent" // the processor, or this KVM, does not offer it
)

// Trial is something tried, and what was seen.
type Trial struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Saw    string `json:"saw"`
	Why    string `json:"why"` // who wants it, what for
}

// patience is for one entry of a guest; a hundred times what the slowest host
// takes for the longest trial. hard is for a whole trial with its machine.
const (
	patience = 200 * time.Millisecond
	hard     = 3 * time.Second
)

// errAbsent is a trial's way to say that there is nothing to try.
type errAbsent string

func (e errAbsent) Error() string { return string(e) }

// try does one thing on a goroutine of its own, which it abandons if even a kick
// does not bring it back.
func try(name, why string, f func() (saw string, err error)) Trial {
	type result struct {
		saw string
		err error
	}
	done := make(chan result, 1)
	go func() {
		saw, err := f()
		done <- result{saw, err}
	}()
	t := Trial{Name: name, Why: why}
	timer := time.NewTimer(hard)
	defer timer.Stop()
	select {
	case r := <-done:
		t.Status, t.Saw = Works, r.saw
		var absent errAbsent
		switch {
		case errors.As(r.err, &absent):
			t.Status, t.Saw = Absent, absent.Error()
		case errors.Is(r.err, ErrLate):
			t.Status, t.Saw = Hangs, fmt.Sprintf("kicked after %v", patience)
		case r.err != nil:
			t.Status, t.Saw = Fails, r.err.Error()
		}
	case <-timer.C:
		t.Status, t.Saw = Stuck, fmt.Sprintf("no answer in %v, and a kick did not end it", hard)
	}
	return t
}

// tolerated is how many lost threads are enough to stop trying.
const tolerated = 3

// giveUp is the trial of what is not tried any more.
func giveUp(done []Trial, name, why string) (Trial, bool) {
	stuck := 0
	for _, t := range done {
		if t.Status == Stuck {
			stuck++
		}
	}
	return Trial{name, Stuck, "not tried: too many before it never came back", why}, stuck >= tolerated
}

// errSaw is a failure that needs no prefix: what the guest did instead.
type errSaw string

func (e errSaw) Error() string { return string(e) }

// until runs c, answering its reads with zeroes, to an exit that is no read.
func until(c *kvm.VCPU) (kvm.Exit, error) {
	w := Within(c, patience)
	defer w.Stop()
	for {
		exit, err := w.Run()
		if err == nil && exit == kvm.ExitIO && c.IO().In {
			clear(c.IO().Data)
			continue
		}
		return exit, err
	}
}

// done runs c to DonePort.
func done(c *kvm.VCPU) error { return port(c, DonePort) }

func port(c *kvm.VCPU, want uint16) error {
	exit, err := until(c)
	if err != nil {
		return err
	}
	if exit != kvm.ExitIO || c.IO().Port != want {
		return errSaw(describe(c, exit))
	}
	return nil
}

// Names lists every mode and behaviour that is tried.
func Names() []string {
	var names []string
	for _, s := range slices.Concat(modes, behaviours) {
		names = append(names, s.name)
	}
	return names
}
