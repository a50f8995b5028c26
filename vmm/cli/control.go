package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"bulkhead/vmm/api"
	"bulkhead/vmm/machine"
)

// listen opens the API's socket. Who connects is answered once the guest runs: before,
// there is nothing to pause or to save, and nothing has ended either.
func (r *run) listen() error {
	if r.words.API == "" {
		return nil
	}
	l, err := api.Listen(r.words.API)
	if err != nil {
		return err
	}
	r.socket = l
	r.closers = append(r.closers, func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) { // as the server has closed it
			return err
		}
		return nil
	})
	return nil
}

// serve answers on it.
func (r *run) serve() {
	if r.socket != nil {
		r.closers = append(r.closers, api.Serve(r.socket, control{r}).Close)
	}
}

// control is a run as the API sees it.
type control struct{ *run }

func (c control) State() api.State {
	s := api.State{State: "running", CPUs: c.machine.CPUs(), MemoryMiB: c.machine.Memory().Size() >> 20, Devices: []string{}}
	switch {
	case c.machine.Ended():
		s.State = "ended"
	case c.machine.Paused():
		s.State = "paused"
	}
	select {
	case <-c.machine.Entered():
		s.UptimeMS = time.Since(c.machine.EnteredAt()).Milliseconds()
	default:
	}
	for _, d := range c.machine.Metrics().Devices {
		s.Devices = append(s.Devices, d.Name)
	}
	return s
}

func (c control) Pause() error           { return c.machine.Pause() }
func (c control) Resume() error          { return c.machine.Resume() }
func (c control) Save(path string) error { return c.machine.Save(path) }

// Shutdown: a guest that is off before its grace is over ends in its own way, and
// the timer finds nobody to end.
func (c control) Shutdown(grace time.Duration) error {
	if c.machine.Ended() {
		return fmt.Errorf("%w: %v", machine.ErrEnded, c.machine.Ending())
	}
	cut := func() { c.end(machine.Ending{Reason: machine.Stopped}) }
	if grace == 0 {
		cut()
		return nil
	}
	if err := c.machine.PressPower(); err != nil {
		return err
	}
	time.AfterFunc(grace, cut)
	return nil
}

const pagesPerMiB = 256 // of a balloon's pages

func (c control) SetBalloon(mib uint64) error {
	if c.balloon == nil {
		return errNoBalloon
	}
	if most := c.machine.Memory().Size() >> 20; mib > most {
		return fmt.Errorf("the guest has %d MiB and cannot do without %d", most, mib)
	}
	c.balloon.SetTarget(uint32(mib * pagesPerMiB))
	return nil
}

var errNoBalloon = fmt.Errorf("balloon: %w; boot it with --balloon", api.ErrNone)

// statsTime is how long a guest may take to tell how it fares.
const statsTime = time.Second

func (c control) Balloon(ctx context.Context) (api.Balloon, error) {
	if c.balloon == nil {
		return api.Balloon{}, errNoBalloon
	}
	p := c.balloon.Pages()
	b := api.Balloon{TargetMiB: uint64(p.Target) / pagesPerMiB, ActualMiB: uint64(p.Actual) / pagesPerMiB}
	ctx, cancel := context.WithTimeout(ctx, statsTime)
	defer cancel()
	stats, err := c.balloon.Statistics(ctx)
	if err != nil {
		// A guest that tells nothing has a balloon all the same.
		c.log.Debug("no statistics of the guest's memory", "err", err)
		return b, nil
	}
	b.Statistics = stats
	return b, nil
}

func (c control) Metrics() api.Metrics {
	x := c.machine.Metrics()
	out := api.Metrics{Exits: x.Exits, Unclaimed: x.Unclaimed, Devices: map[string]api.Device{}}
	for _, d := range x.Devices {
		out.Devices[d.Name] = api.Device{
			Chains: d.Traffic.Chains, ReadBytes: d.Traffic.Read, WrittenBytes: d.Traffic.Written,
			Notifications: d.Notifications, Interrupts: d.Interrupts, Failures: d.Failures,
		}
	}
	return out
}
