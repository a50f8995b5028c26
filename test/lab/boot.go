package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ready is what testdata/ready.c prints.
const ready = 0x06

// What of a boot is told; in instructions, which are the lab's nanoseconds.
const (
	toInit    = "process start to init"
	toGuest   = "process start to first instruction"
	guestOnly = "first instruction to init"
)

// boot measures each monitor from its start to the guest's init.
func (b *bench) boot() error {
	if err := writeInitramfs(b.guest.initrd, filepath.Join(b.dir, "ready")); err != nil {
		return err
	}
	for _, v := range b.vmms {
		if err := b.bootOne(v); err != nil {
			// One that fails here does not keep the others from being measured.
			fmt.Fprintln(os.Stderr, "lab:", err)
		}
	}
	return nil
}

func (b *bench) bootOne(v vmm) error {
	if _, _, err := b.toInit(v); err != nil { // reads all from the host, once
		return err
	}
	for range b.runs {
		took, first, err := b.toInit(v)
		if err != nil {
			return err
		}
		b.add(v.name, toInit, "instructions", float64(took))
		b.add(v.name, toGuest, "instructions", float64(first))
		b.add(v.name, guestOnly, "instructions", float64(took-first))
	}
	if b.exits {
		if err := b.trace.count(); err != nil {
			return err
		}
		if _, _, err := b.toInit(v); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%s\n%s\n", v.name, b.trace.counts())
	}
	return nil
}

// toInit is how long v's guest took to its init, and to its first instruction:
// the lab's work, of which the guest has what passes from there on.
// The latter vmm tells itself: before its guest it runs another, to learn
// whether the host can (vmm/ring0).
func (b *bench) toInit(v vmm) (took, first time.Duration, err error) {
	if err := b.trace.begin(); err != nil {
		return 0, 0, err
	}
	worked, err := work()
	if err != nil {
		return 0, 0, err
	}
	r, err := start(v.name, v.command(b.dir, b.guest))
	if err != nil {
		return 0, 0, err
	}
	offset := time.Duration(time.Now().UnixNano()) - monotonic()
	_, at, err := r.until(ready)
	after, failed := work()
	r.end()
	if err = errors.Join(err, failed); err != nil {
		return 0, 0, err
	}
	took = after - worked
	fmt.Fprintf(os.Stderr, "lab: %s: %v of %v\n", v.name, took, at-r.began)
	entered, err := b.trace.first()
	if own, ok := ownEntry(r.err.String()); ok {
		entered, err = own-offset, nil
	}
	return took, took - (at - entered), err
}

// work is for how long the lab's one CPU has not been idle (Documentation/scheduler/sched-stats.rst).
// A wait for the host, as for a file, is not the monitor's work, and passes at
// a time of its own.
func work() (time.Duration, error) {
	text, err := os.ReadFile("/proc/schedstat")
	if err != nil {
		return 0, fmt.Errorf("count instructions: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 7 && words[0] == "cpu0" {
			ns, err := strconv.ParseInt(words[7], 10, 64)
			return time.Duration(ns), err
		}
	}
	return 0, fmt.Errorf("count instructions: no cpu0 in /proc/schedstat")
}

// ownEntry is when, since 1970, vmm's guest began, as its --json says.
func ownEntry(text string) (time.Duration, bool) {
	var told struct {
		Began  int64 `json:"began_unix_us"`
		Timing []struct {
			What string  `json:"what"`
			MS   float64 `json:"ms"`
		} `json:"timing"`
	}
	if json.Unmarshal([]byte(text), &told) != nil {
		return 0, false
	}
	for _, mark := range told.Timing {
		if mark.What == "first instruction" {
			return time.Duration(told.Began)*time.Microsecond + time.Duration(mark.MS*float64(time.Millisecond)), true
		}
	}
	return 0, false
}
