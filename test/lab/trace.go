package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trace is the lab's kernel telling when a guest runs, and why it stops
// (Documentation/trace/events.rst, histogram.rst).
type trace struct{ dir string }

func newTrace() (*trace, error) {
	dir, err := os.MkdirTemp("", "tracing-")
	if err != nil {
		return nil, fmt.Errorf("trace KVM: %w", err)
	}
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		return nil, fmt.Errorf("trace KVM: mount tracefs: %w", err)
	}
	t := &trace{dir}
	return t, t.write("trace_clock", "mono")
}

func (t *trace) write(name, text string) error {
	f, err := os.OpenFile(filepath.Join(t.dir, name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("trace KVM: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("trace KVM: write %q to %s: %w", text, name, err)
	}
	return nil
}

func (t *trace) read(name string) string {
	b, err := os.ReadFile(filepath.Join(t.dir, name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

const (
	exitTrigger = "events/kvm/kvm_exit/trigger"
	ioTrigger   = "events/kvm/kvm_pio/trigger"
	mmioTrigger = "events/kvm/kvm_mmio/trigger"
	msrTrigger  = "events/kvm/kvm_msr/trigger"
)

// histograms are for finding out where a guest's instructions go.
var histograms = [][2]string{
	{exitTrigger, "hist:keys=exit_reason:sort=hitcount"},
	{ioTrigger, "hist:keys=port,rw:sort=hitcount"},
	{mmioTrigger, "hist:keys=gpa,type:sort=hitcount"},
	{msrTrigger, "hist:keys=ecx,write:sort=hitcount"},
}

// begin waits for a guest to run; first says when it did. The event is the
// loading of a guest's FPU, once a KVM_RUN: rarer than entries into the guest, so that
// looking costs next to nothing. What comes when the buffer is full is dropped.
func (t *trace) begin() error {
	for _, w := range [][2]string{
		{"options/overwrite", "0"}, {"buffer_size_kb", "16"}, {"trace", "\n"},
		{"events/kvm/kvm_fpu/enable", "1"}, {"tracing_on", "1"},
	} {
		if err := t.write(w[0], w[1]); err != nil {
			return err
		}
	}
	return nil
}

func (t *trace) first() (time.Duration, error) {
	if err := t.write("events/kvm/kvm_fpu/enable", "0"); err != nil {
		return 0, err
	}
	return firstEntry(t.read("trace"))
}

// firstEntry is the time stamp of the first kvm_fpu of a trace
// (Documentation/trace/ftrace.rst, "Output format").
func firstEntry(text string) (time.Duration, error) {
	for line := range strings.Lines(text) {
		before, _, found := strings.Cut(line, ": kvm_fpu: load")
		if !found {
			continue
		}
		stamp := before[strings.LastIndexByte(before, ' ')+1:]
		at, err := time.ParseDuration(stamp + "s")
		if err != nil {
			return 0, fmt.Errorf("trace KVM: when is %q: %w", line, err)
		}
		return at, nil
	}
	return 0, fmt.Errorf("trace KVM: no entry into a guest in %q", text)
}

// count begins to count exits; counts tells and ends it.
func (t *trace) count() error {
	for _, h := range histograms {
		if err := t.write(h[0], h[1]); err != nil {
			return err
		}
	}
	return nil
}

func (t *trace) counts() string {
	var text strings.Builder
	for _, h := range histograms {
		fmt.Fprintf(&text, "%s\n%s\n", h[0], t.read(strings.Replace(h[0], "trigger", "hist", 1)))
		_ = t.write(h[0], "!"+h[1])
	}
	return text.String()
}
