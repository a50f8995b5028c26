package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// diskBytes is the size of the file behind a guest's disk; testdata/load.c knows it.
const diskBytes = 64 << 20

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
	b.guest.cmdline += " scale=128 " + word
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

// peer makes the TAP, new for each guest, and answers on it.
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
	listener, err := net.Listen("tcp4", "10.99.0.1:7000")
	if err != nil {
		return nil, fmt.Errorf("answer the guest: %w", err)
	}
	go serve(listener)
	return func() {
		listener.Close()
		if out, err := exec.Command("ip", "link", "delete", "tap0").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "lab: delete tap0: %v: %s\n", err, out)
		}
	}, nil
}

// serve is the other end of testdata/load.c, net: 4 MiB the first time and
// then what scale says.
func serve(l net.Listener) {
	for _, total := range []int64{4 << 20, 128 << 18} {
		c, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				fmt.Fprintln(os.Stderr, "lab: answer the guest:", err)
			}
			return
		}
		if err := exchange(c, total); err != nil {
			fmt.Fprintln(os.Stderr, "lab: answer the guest:", err)
		}
		c.Close()
	}
}

// exchange is one connection. Its copies go through a buffer like the guest's,
// not by splice, so that both ways cost the lab the same for each monitor.
func exchange(c net.Conn, total int64) error {
	buffer := make([]byte, 256<<10)
	one := []byte{1}
	if _, err := c.Write(one); err != nil {
		return err
	}
	for n := int64(0); n < total; {
		k, err := c.Read(buffer)
		if err != nil {
			return err
		}
		n += int64(k)
	}
	if _, err := c.Write(one); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, one); err != nil {
		return err
	}
	for range total / int64(len(buffer)) {
		if _, err := c.Write(buffer); err != nil {
			return err
		}
	}
	// The guest closes when it has all.
	if _, err := c.Read(one); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
