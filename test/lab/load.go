package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// diskBytes is the size of the file behind a guest's disk; testdata/load.c knows it.
const diskBytes = 64 << 20

// scale is how much a guest does; testdata/load.c has the units.
const scale = "128"

// disk measures the guest's disk: a raw file on the lab's tmpfs.
func (b *bench) disk() error {
	if err := b.prepareLoad("load=disk"); err != nil {
		return err
	}
	b.guest.disk = filepath.Join(b.dir, "disk")
	if err := os.WriteFile(b.guest.disk, make([]byte, diskBytes), 0o644); err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	return b.eachLoad(func() (func(), error) { return func() {}, nil })
}

// net measures TCP over the guest's network: a TAP with the lab at its other end.
func (b *bench) net() error {
	if err := b.prepareLoad("load=net"); err != nil {
		return err
	}
	b.guest.tap = "tap0"
	return b.eachLoad(b.peer)
}

func (b *bench) prepareLoad(word string) error {
	b.guest.cmdline += " scale=" + scale + " " + word
	return writeInitramfs(b.guest.initrd, filepath.Join(b.dir, "load"))
}

// eachLoad runs the load in each monitor, taking turns. The first time reads all from the
// host; the lab's clock jumps ahead meanwhile, so it counts for nothing.
func (b *bench) eachLoad(around func() (func(), error)) error {
	for run := range b.runs + 1 {
		for _, v := range b.vmms {
			undo, err := around()
			if err != nil {
				return err
			}
			err = b.load(v, run > 0)
			undo()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// load boots a guest and takes its results, if they count.
func (b *bench) load(v vmm, counts bool) error {
	if b.exits && counts {
		if err := b.trace.count(); err != nil {
			return err
		}
	}
	r, err := start(v.name, v.command(b.dir, b.guest))
	if err != nil {
		return err
	}
	defer r.end()
	for {
		line, _, err := r.until('\n')
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "lab: %s: %s\n", v.name, strings.TrimSpace(line))
		var what string
		var amount, took float64
		line = strings.TrimSpace(line)
		if n, _ := fmt.Sscanf(line, "%s %g %g", &what, &amount, &took); n != 3 {
			if strings.HasPrefix(line, "failed") {
				return fmt.Errorf("%s: its guest: %s", v.name, line)
			}
			continue // the kernel's
		}
		switch {
		case what == "done":
			if b.exits && counts {
				fmt.Fprintf(os.Stderr, "%s\n%s\n", v.name, b.trace.counts())
			}
			return nil
		case what == "warm" || !counts:
		case b.inside == "net":
			b.add(v.name, what, "instructions a KiB", took/amount*1024)
		default:
			b.add(v.name, what, "instructions a request", took/amount)
		}
	}
}

// peer makes the TAP, new for each guest, and has the other end of testdata/load.c, net, on it.
func (b *bench) peer() (func(), error) {
	for _, line := range []string{
		"ip tuntap add dev tap0 mode tap vnet_hdr",
		"ip address add 10.99.0.1/24 dev tap0",
		"ip link set tap0 up",
	} {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	other := exec.Command(filepath.Join(b.dir, "load"), scale)
	other.Stderr = os.Stderr
	said, err := other.StdoutPipe()
	if err == nil {
		err = other.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("answer the guest: %w", err)
	}
	if line, err := bufio.NewReader(said).ReadString('\n'); line != "ready\n" {
		return nil, fmt.Errorf("answer the guest: %w: %q", err, line)
	}
	return func() {
		other.Process.Kill()
		other.Wait()
		if out, err := exec.Command("ip", "link", "delete", "tap0").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "lab: delete tap0: %v: %s\n", err, out)
		}
	}, nil
}
