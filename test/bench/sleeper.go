package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// adopt makes every process that a runtime leaves a descendant of ours, so that
// all of a container's can be found whatever the runtime calls them.
func adopt() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// sleeper measures a container that does nothing.
func (t *table) sleeper(c column) error {
	id := "sleeper-" + c.name
	create, err := c.command("create", id, "bin/sleep", "1000")
	if err != nil {
		return err
	}
	// What it leaves behind keeps its stdio, which must not be a pipe.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	create.Stdin, create.Stdout, create.Stderr = null, null, null
	if err := create.Run(); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	verb := func(args ...string) error {
		out, err := exec.Command(c.runtime[0], append(c.runtime[1:], args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
		return nil
	}
	defer verb("delete", "--force", id)
	if err := verb("start", id); err != nil {
		return err
	}
	time.Sleep(time.Second) // the start's work is not the sleeper's
	var memory float64
	for _, pid := range descendants(os.Getpid()) {
		memory += pss(pid)
	}
	t.add(c.name, "memory of a sleeping container (PSS)", "MiB", []float64{memory / 1024})
	const period = 4 * time.Second
	cpu, switches := activity()
	time.Sleep(period)
	cpu2, switches2 := activity()
	t.add(c.name, "its processor time", "ms/s", []float64{(cpu2 - cpu) * 1000 / period.Seconds()})
	t.add(c.name, "its wake-ups", "/s", []float64{(switches2 - switches) / period.Seconds()})
	return nil
}

// descendants of a process; threads of a stub process may have other parents, so
// each thread's children are asked for.
func descendants(pid int) []int {
	var all []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// pss is in KiB: memory that processes share is divided among them.
func pss(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			value, _ := strconv.ParseFloat(f[1], 64)
			return value
		}
	}
	return 0
}

// activity is the processor time in seconds and the context switches of our descendants.
func activity() (cpu, switches float64) {
	for _, pid := range descendants(os.Getpid()) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, task := range tasks {
			// schedstat counts nanoseconds; utime and stime only hundredths.
			b, _ := os.ReadFile(filepath.Join(task, "schedstat"))
			if f := strings.Fields(string(b)); len(f) == 3 {
				value, _ := strconv.ParseFloat(f[0], 64)
				cpu += value / 1e9
			}
			b, _ = os.ReadFile(filepath.Join(task, "status"))
			for line := range strings.Lines(string(b)) {
				if f := strings.Fields(line); len(f) == 2 && strings.HasSuffix(f[0], "ctxt_switches:") {
					value, _ := strconv.ParseFloat(f[1], 64)
					switches += value
				}
			}
		}
	}
	return cpu, switches
}
