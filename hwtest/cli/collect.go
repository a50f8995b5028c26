package cli

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"bulkhead/hwtest/cost"
	"bulkhead/hwtest/guest"
	"bulkhead/hwtest/probe"
	"bulkhead/hwtest/report"
	"bulkhead/hwtest/verdict"
	"bulkhead/kvm"
	"bulkhead/vmm/ring0"
)

// collection is what is wanted of a report.
type collection struct {
	costs    bool
	budget   time.Duration
	progress func(string)
}

// collect looks, tries and measures, in that order: each needs less than the next.
func collect(want collection) *report.Report {
	begin := time.Now()
	r := &report.Report{Schema: report.Schema, Tool: "hwtest", Commit: Commit, Taken: begin.UTC().Truncate(time.Second),
		Load:  report.Load{CPUs: runtime.NumCPU(), Before: load()},
		Modes: []guest.Trial{}, Instructions: []guest.Trial{}, Behaviours: []guest.Trial{}, Costs: []cost.Cost{}}
	sys, noKVM := kvm.Open()
	if noKVM != nil {
		sys = nil
	} else {
		defer sys.Close()
	}
	want.progress("reading what the host says of itself")
	r.Host = probe.This(sys, noKVM).Facts()
	e := verdict.Evidence{Facts: r.Host}
	if sys != nil {
		want.progress("ring 0")
		e.Ring0 = native(sys)
		e.Modes = guest.Modes(sys, want.progress)
		if e.Ring0.Error == "" {
			e.Behaviours = guest.Behaviours(sys, want.progress)
			e.Instructions = guest.Instructions(sys, r.Host.CPU.Vendor, want.progress)
		}
	}
	want.progress("ptrace")
	e.NoPtrace = cost.Ptrace()
	if want.costs {
		e.Costs = cost.Measure(cost.Host{KVM: sys, NoKVM: noKVM, CPUs: runtime.NumCPU(), Budget: want.budget, Progress: want.progress})
	}
	fill(r, e)
	r.TookMS = time.Since(begin).Milliseconds()
	return r
}

// fill copies what was found into r. Lists are never null in the JSON.
func fill(r *report.Report, e verdict.Evidence) {
	r.Ring0, r.Class, r.Walls = e.Ring0, e.Of(), e.Walls()
	r.ClassMeaning = verdict.Meaning[r.Class]
	r.Modes = append(r.Modes, e.Modes...)
	r.Behaviours = append(r.Behaviours, e.Behaviours...)
	r.Instructions = append(r.Instructions, e.Instructions...)
	r.Costs = append(r.Costs, e.Costs...)
}

// native asks vmm/ring0, which is what vmm itself asks, and does not wait for ever.
func native(sys *kvm.System) verdict.Ring0 {
	answer := make(chan verdict.Ring0, 1)
	go func() {
		yes, reason, err := ring0.Native(sys)
		r := verdict.Ring0{Native: yes, Reason: reason}
		if err != nil {
			r.Error = err.Error()
		}
		answer <- r
	}()
	select {
	case r := <-answer:
		return r
	case <-time.After(5 * time.Second):
		return verdict.Ring0{Error: "a guest cannot be ended: no answer in 5s"}
	}
}

// load is the first figure of /proc/loadavg.
func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}
