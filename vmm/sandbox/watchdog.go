package sandbox

import (
	"context"
	"fmt"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/vmm/machine"
)

const (
	// silence is what it is without the annotation. A guest that swaps, or whose host has
	// much to do, answers late; one that does not in a minute does nothing for anyone.
	silence = time.Minute
	// beats are how often the init is asked in that time.
	beats = 6
)

// patienceOf is the annotation's, or silence.
func patienceOf(annotations map[string]string) (time.Duration, error) {
	text, ok := annotations[agent.WatchdogAnnotation]
	if !ok {
		return silence, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > 0 && d < time.Second {
		return 0, fmt.Errorf("annotation %s: %q is no time of a second or more, or 0", agent.WatchdogAnnotation, text)
	}
	return d, nil
}

// watchdog asks whether something lives, time and again, until ctx ends, or until there
// has been no answer for as long as patience says, though it was not paused: that is true.
type watchdog struct {
	patience time.Duration
	ask      func(ctx context.Context) error
	paused   func() bool
	late     func(since time.Duration) // is told of a question without an answer
}

func (w *watchdog) watch(ctx context.Context) (dead bool) {
	every := time.NewTicker(w.patience / beats)
	defer every.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-every.C:
		}
		limited, cancel := context.WithTimeout(ctx, w.patience/beats)
		err := w.ask(limited)
		cancel()
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil || w.paused():
			last = time.Now()
		case time.Since(last) >= w.patience:
			return true
		default:
			w.late(time.Since(last))
		}
	}
}

// answers asks the guest's init. One that does not even read holds the question, and not us:
// what is left of that ends with the machine.
func (s *sandbox) answers(ctx context.Context) error {
	answer := make(chan error, 1)
	go func() {
		_, err := s.guest.Hello(ctx, &rpc.HelloRequest{Version: rpc.Version})
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// guard ends a machine whose guest is dead in all but name.
func (s *sandbox) guard() error {
	patience, err := patienceOf(s.config.Spec.Annotations)
	if err != nil || patience == 0 {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-s.machine.Done()
		cancel()
	}()
	w := &watchdog{
		patience: patience, paused: s.machine.Paused,
		ask: s.answers,
		late: func(since time.Duration) {
			s.log.Warn("guest does not answer", "since", since.Round(time.Second).String())
		},
	}
	go func() {
		if w.watch(ctx) {
			s.machine.End(machine.Ending{Reason: machine.Hung, Err: fmt.Errorf("its init has not answered for %v", patience)})
		}
	}()
	return nil
}
