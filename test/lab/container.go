package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// start is a way to start a container.
type startKind struct {
	name  string
	flags func(b *bench) []string
}

// starts are the ways that are compared. The second finds the template that it made when it
// was started for the first time, which is not counted.
var starts = []startKind{
	{"vm, a copy of the template", func(b *bench) []string {
		return []string{"--isolation", "vm", "--template", filepath.Join(b.dir, "templates")}
	}},
	{"vm, booting", func(*bench) []string { return []string{"--isolation", "vm", "--template", "off"} }},
	{"sentry on kvm", func(*bench) []string { return []string{"--isolation", "sentry", "--platform", "kvm"} }},
}

// What of a container's start is told.
const (
	toProgram = "bulkhead run to the program"
	toReady   = "of it: guest's first instruction to its init's call"
	toStarted = "guest's first instruction to the program's"
)

// container measures how much is done for a container's start.
func (b *bench) container() error {
	if err := b.bundle(); err != nil {
		return err
	}
	for run := range b.runs + 1 { // the first time reads all from the host, and makes the template
		for i, s := range starts {
			if err := b.startContainer(s, fmt.Sprintf("c%d-%d", i, run), run > 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// bundle makes one in b.dir, whose program is ready.c's.
func (b *bench) bundle() error {
	root := filepath.Join(b.dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(root, "ready"), filepath.Join(b.dir, "ready")); err != nil {
		return err
	}
	if out, err := exec.Command(filepath.Join(b.dir, "bulkhead"), "spec", "--bundle", b.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("make a bundle: %w: %s", err, out)
	}
	path := filepath.Join(b.dir, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	spec.Process.Args, spec.Process.Terminal = []string{"/ready"}, false
	spec.Annotations = map[string]string{"dev.bulkhead.vm.memory": "128M", "dev.bulkhead.vm.cpu-without": without}
	if text, err = json.Marshal(&spec); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// bulkhead is a command line of it.
func (b *bench) bulkhead(words ...string) []string {
	return append([]string{filepath.Join(b.dir, "bulkhead"), "--root", filepath.Join(b.dir, "state"), "--debug", "--log", filepath.Join(b.dir, "log")}, words...)
}

func (b *bench) startContainer(s startKind, id string, counts bool) error {
	os.Remove(filepath.Join(b.dir, "log"))
	worked, err := work()
	if err != nil {
		return err
	}
	r, err := start(s.name, b.bulkhead(append(s.flags(b), "run", "--bundle", b.dir, id)...))
	if err != nil {
		return err
	}
	_, _, err = r.until(ready)
	after, failed := work()
	out, deleted := exec.Command(b.bulkhead("delete")[0], b.bulkhead("delete", "--force", id)[1:]...).CombinedOutput()
	r.end()
	log, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	if err = errors.Join(err, failed, deleted); err != nil {
		return fmt.Errorf("%w\n%s\n%s", err, out, log)
	}
	fmt.Fprintf(os.Stderr, "lab: %s: %v\n", s.name, after-worked)
	if !counts {
		return nil
	}
	b.add(s.name, toProgram, "instructions", float64(after-worked))
	if guest, ok := between(string(log), "boot the guest", "reach the guest's init"); ok {
		b.add(s.name, toReady, "instructions", float64(guest))
	}
	if guest, ok := between(string(log), "boot the guest", "start the program"); ok {
		b.add(s.name, toStarted, "instructions", float64(guest))
	}
	return nil
}

// between is the time from one milestone of the log to another.
func between(log, from, to string) (time.Duration, bool) {
	at := map[string]time.Duration{}
	for line := range strings.Lines(log) {
		for _, step := range []string{from, to} {
			_, rest, found := strings.Cut(line, "msg=milestone sandbox=")
			if !found || !strings.Contains(rest, "step="+strconv.Quote(step)+" ") {
				continue
			}
			_, text, _ := strings.Cut(rest, " at=")
			if d, err := time.ParseDuration(strings.TrimSpace(text)); err == nil {
				at[step] = d
			}
		}
	}
	return at[to] - at[from], at[from] != 0 && at[to] != 0
}

// many is how many containers share what can be shared.
const many = 20

// memory measures what containers that run and do nothing take.
func (b *bench) memory() error {
	if err := b.bundle(); err != nil {
		return err
	}
	for i, s := range starts {
		if i == 0 { // the template's own guest
			if err := b.startContainer(s, "first", false); err != nil {
				return err
			}
		}
		var ids []string
		for n := range many {
			id := fmt.Sprintf("m%d-%d", i, n)
			argv := b.bulkhead(append(s.flags(b), "run", "--detach", "--bundle", b.dir, id)...)
			if err := exec.Command(argv[0], argv[1:]...).Run(); err != nil {
				log, _ := os.ReadFile(filepath.Join(b.dir, "log"))
				return fmt.Errorf("%s: %w: %s", s.name, err, log)
			}
			ids = append(ids, id)
		}
		var all, guest int
		for _, id := range ids {
			a, g, err := b.pss(id)
			if err != nil {
				return err
			}
			all, guest = all+a, guest+g
		}
		fmt.Fprintf(os.Stderr, "lab: %s: %d KiB of %d containers\n", s.name, all, many)
		b.add(s.name, "in all", "KiB", float64(all)/many)
		if guest > 0 {
			b.add(s.name, "of it the guest's", "KiB", float64(guest)/many)
			b.add(s.name, "and ours", "KiB", float64(all-guest)/many)
		}
		for _, id := range ids {
			argv := b.bulkhead("delete", "--force", id)
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", s.name, err, out)
			}
		}
	}
	return nil
}

// pss is what a container's processes have of the host's memory, in KiB, and how much of it is
// a guest's memory, or the container's.
func (b *bench) pss(id string) (all, guest int, err error) {
	text, err := os.ReadFile(filepath.Join(b.dir, "state", id, "state.json"))
	if err != nil {
		return 0, 0, err
	}
	var s struct{ Sandbox, Gofer struct{ PID int } }
	if err := json.Unmarshal(text, &s); err != nil {
		return 0, 0, err
	}
	for _, pid := range []int{s.Sandbox.PID, s.Gofer.PID} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
		if err != nil {
			return 0, 0, err
		}
		theirs := false
		for lines := bufio.NewScanner(f); lines.Scan(); {
			words := strings.Fields(lines.Text())
			if len(words) >= 5 && strings.Contains(words[0], "-") {
				name := strings.Join(words[5:], " ")
				theirs = strings.Contains(name, "/memfd:") || strings.HasSuffix(name, ".template")
			}
			if len(words) == 3 && words[0] == "Pss:" {
				n, err := strconv.Atoi(words[1])
				if err != nil {
					f.Close()
					return 0, 0, err
				}
				all += n
				if theirs {
					guest += n
				}
			}
		}
		f.Close()
	}
	return all, guest, nil
}
