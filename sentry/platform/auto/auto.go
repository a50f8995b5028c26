// Package auto makes the platform that a sandbox runs on: the one that was
// asked for, or the one that answers a program cheapest on this host, which it
// finds out by measuring. What a switch costs differs by a factor of forty
// between hosts that offer the same /dev/kvm, so nothing is concluded from names
// or capabilities. Nothing is kept on disk: a measurement takes a few milliseconds.
package auto

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"bulkhead/sentry/platform"
	"bulkhead/sentry/platform/kvm"
	"bulkhead/sentry/platform/ptrace"
)

// Config says what to make.
type Config struct {
	// Name is "auto" (or empty), "kvm" or "ptrace".
	Name string
	// KVM is /dev/kvm, open for reading and writing, or -1. The platform owns it then.
	KVM int
	// NoKVM is why KVM is -1, for people: "open /dev/kvm: permission denied".
	NoKVM error
}

// Cost is what a platform takes to answer a program, as measured here.
type Cost struct {
	Name    string
	Trapped time.Duration // a system call as programs make it
	Patched time.Duration // one from a call site that became a jump; Trapped if the platform patches none
	Fault   time.Duration // a page fault, with the page mapped
	Took    time.Duration // to make the platform and to measure it
	Err     error         // why there is no such platform here
}

// Mix is the cost of what a common program asks, for each hundred entries: most
// calls come from few sites; one entry in ten is a fault.
func (c Cost) Mix() time.Duration {
	const patched, trapped, faults = 75, 15, 10
	return (patched*c.Patched + trapped*c.Trapped + faults*c.Fault) / (patched + trapped + faults)
}

func (c Cost) String() string {
	if c.Err != nil {
		return fmt.Sprintf("%s: not here: %v", c.Name, c.Err)
	}
	return fmt.Sprintf("%s: system call %v trapped, %v patched; fault %v; common mix %v (measured in %v)", c.Name,
		round(c.Trapped), round(c.Patched), round(c.Fault), round(c.Mix()), c.Took.Round(100*time.Microsecond))
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Microsecond {
		return d.Round(10 * time.Nanosecond)
	}
	return d.Round(100 * time.Nanosecond)
}

// Report is how the choice was made.
type Report struct {
	Chosen string
	Reason string
	Costs  []Cost // what was tried, in order; nothing is measured if the platform was named
}

func (r Report) String() string {
	var b strings.Builder
	for _, c := range r.Costs {
		fmt.Fprintln(&b, c)
	}
	fmt.Fprintf(&b, "platform %s: %s", r.Chosen, r.Reason)
	return b.String()
}

// LogValue implements slog.LogValuer.
func (r Report) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("chosen", r.Chosen), slog.String("reason", r.Reason)}
	for _, c := range r.Costs {
		attrs = append(attrs, slog.Any(c.Name, c))
	}
	return slog.GroupValue(attrs...)
}

// LogValue implements slog.LogValuer.
func (c Cost) LogValue() slog.Value {
	if c.Err != nil {
		return slog.GroupValue(slog.Any("err", c.Err))
	}
	return slog.GroupValue(slog.Duration("trapped", c.Trapped), slog.Duration("patched", c.Patched),
		slog.Duration("fault", c.Fault), slog.Duration("mix", c.Mix()), slog.Duration("took", c.Took))
}

// candidate is a platform that this host may have.
type candidate struct {
	name string
	make func() (platform.Platform, error)
}

func (c Config) candidates() []candidate {
	return []candidate{
		{"kvm", func() (platform.Platform, error) {
			if c.KVM < 0 {
				return nil, cmp.Or(c.NoKVM, errors.New("/dev/kvm was not opened"))
			}
			p, err := kvm.New(c.KVM)
			if err != nil {
				return nil, err
			}
			return p, nil
		}},
		{"ptrace", func() (platform.Platform, error) {
			p, err := ptrace.New()
			if err != nil {
				return nil, err
			}
			return p, nil
		}},
	}
}

// New makes the platform that c names, or the cheapest.
func New(c Config) (platform.Platform, Report, error) {
	all := c.candidates()
	if c.Name == "" || c.Name == "auto" {
		return choose(all)
	}
	for _, one := range all {
		if one.name == c.Name {
			p, err := one.make()
			if err != nil {
				return nil, Report{}, fmt.Errorf("platform %s: %w", c.Name, err)
			}
			return p, Report{Chosen: c.Name, Reason: "as asked for"}, nil
		}
	}
	return nil, Report{}, fmt.Errorf("platform %q: want auto, kvm or ptrace", c.Name)
}

// choose measures all and keeps the cheapest.
func choose(all []candidate) (platform.Platform, Report, error) {
	var r Report
	var best platform.Platform
	var bestCost Cost
	var failed []error
	for _, one := range all {
		p, cost := try(one)
		r.Costs = append(r.Costs, cost)
		switch {
		case cost.Err != nil:
			failed = append(failed, fmt.Errorf("platform %s: %w", one.name, cost.Err))
			continue
		case best == nil:
			best, bestCost = p, cost
			continue
		case cost.Mix() < bestCost.Mix():
			best, bestCost, p = p, cost, best
		}
		if err := p.Close(); err != nil {
			return nil, r, errors.Join(err, best.Close())
		}
	}
	if best == nil {
		return nil, r, errors.Join(failed...)
	}
	r.Chosen, r.Reason = best.Name(), reason(r.Costs, bestCost)
	return best, r, nil
}

// try makes a platform and measures it. One that cannot be measured is not there.
func try(one candidate) (platform.Platform, Cost) {
	begin := time.Now()
	cost := Cost{Name: one.name}
	p, err := one.make()
	if err == nil {
		if err = cost.measure(p); err != nil {
			err = errors.Join(err, p.Close())
		}
	}
	cost.Took, cost.Err = time.Since(begin), err
	return p, cost
}

func reason(costs []Cost, best Cost) string {
	for _, c := range costs {
		switch {
		case c.Name == best.Name:
		case c.Err != nil:
			return fmt.Sprintf("no %s here: %v", c.Name, c.Err)
		default:
			return fmt.Sprintf("%.1f times cheaper than %s for a common program", float64(c.Mix())/float64(best.Mix()), c.Name)
		}
	}
	return "the only one"
}
