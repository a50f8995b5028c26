// Package cost measures what this host charges: for making machines, for
// crossing between guest, kernel and user space, for memory. Each figure is a
// median with its spread, because a shared host has bad moments, and each is
// taken in a machine of its own, with a time after which it is given up.
package cost

import (
	"fmt"
	"slices"
	"time"

	"bulkhead/kvm"
)

// Cost is a figure, in nanoseconds.
type Cost struct {
	ID      string  `json:"id"`
	Group   string  `json:"group"`
	Name    string  `json:"name"`
	Note    string  `json:"note"` // what exactly is measured
	Median  float64 `json:"median_ns"`
	Low     float64 `json:"p10_ns"`
	High    float64 `json:"p90_ns"`
	Min     float64 `json:"min_ns"`
	Samples int     `json:"samples"`
	Error   string  `json:"error"` // why there is no figure; empty if there is
}

// Groups in the order of a report.
const (
	Speed    = "speed of a guest"
	Crossing = "crossing"
	Waking   = "waking"
	Memory   = "memory"
	Making   = "making"
	Sentry   = "the sentry"
)

// Groups is that order.
var Groups = []string{Speed, Crossing, Waking, Memory, Making, Sentry}

// patience is for one measurement; hard for it and its machine.
const (
	patience = 3 * time.Second
	hard     = 8 * time.Second
)

// measurement is a row: samples are nanoseconds of one operation.
type measurement struct {
	id, group, name, note string
	kvm                   bool // needs one
	cpus                  int  // needs as many; 0 and 1 are the same
	measure               func(*bench) (samples []float64, err error)
}

// Host is what measurements are taken on.
type Host struct {
	KVM      *kvm.System // nil: none
	NoKVM    error
	CPUs     int
	Budget   time.Duration // for a figure's samples; DefaultBudget is enough on a quiet host
	Progress func(string)
}

// DefaultBudget makes a report in three seconds.
const DefaultBudget = 150 * time.Millisecond

// Measure takes all of them.
func Measure(h Host) []Cost {
	var costs []Cost
	for _, m := range measurements {
		h.Progress(m.name)
		costs = append(costs, h.one(m))
	}
	h.Progress("the sentry's platforms")
	return append(costs, platforms(h)...)
}

func (h Host) one(m measurement) Cost {
	c := Cost{ID: m.id, Group: m.group, Name: m.name, Note: m.note}
	switch {
	case m.kvm && h.KVM == nil:
		c.Error = h.NoKVM.Error()
	case m.cpus > h.CPUs:
		c.Error = fmt.Sprintf("needs %d CPUs", m.cpus)
	default:
		samples, err := guarded(func() ([]float64, error) { return m.measure(&bench{h.KVM, h.Budget}) })
		c.fill(samples, err)
	}
	return c
}

// guarded abandons what not even a kick ends.
func guarded[T any](f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	timer := time.NewTimer(hard)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.v, r.err
	case <-timer.C:
		var none T
		return none, fmt.Errorf("no answer in %v", hard)
	}
}

func (c *Cost) fill(samples []float64, err error) {
	switch {
	case err != nil:
		c.Error = err.Error()
	case len(samples) == 0:
		c.Error = "nothing was measured"
	default:
		slices.Sort(samples)
		at := func(q float64) float64 { return samples[int(q*float64(len(samples)-1)+0.5)] }
		c.Median, c.Low, c.High, c.Min, c.Samples = at(0.5), at(0.1), at(0.9), samples[0], len(samples)
	}
}

// bench is what a measurement works with.
type bench struct {
	sys    *kvm.System
	budget time.Duration
}

// few is how many samples make a median even where they overrun the budget.
const few = 3

// each times f so often, or as often as the budget allows.
func (b *bench) each(times int, f func() error) ([]float64, error) { return b.batches(times, 1, f) }

// batches times f, which does per operations.
func (b *bench) batches(times, per int, f func() error) ([]float64, error) {
	samples := make([]float64, 0, times)
	begin := time.Now()
	for last := begin; len(samples) < times && (len(samples) < few || last.Sub(begin) < b.budget); {
		if err := f(); err != nil {
			return nil, err
		}
		now := time.Now()
		samples = append(samples, float64(now.Sub(last).Nanoseconds())/float64(per))
		last = now
	}
	return samples, nil
}
