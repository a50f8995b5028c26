package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"bulkhead/virtio/console"
	words "bulkhead/vmm/config"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/terminal"

	"golang.org/x/sys/unix"
)

// openConsoles opens where the serial port and hvc0 go.
func (r *run) openConsoles(c *machine.Config) error {
	serial, err := r.open("ttyS0", r.words.Serial)
	if err != nil {
		return err
	}
	if serial != nil {
		c.Serial = serial.Out
		if serial.In != nil {
			go r.typeSerial(serial.In)
		}
	}
	hvc, err := r.open("hvc0", r.words.Console)
	if hvc == nil || err != nil {
		return err
	}
	d := console.New(hvc.In, hvc.Out, r.log)
	r.closers = append(r.closers, d.Close)
	c.Devices = append(c.Devices, machine.Device{Name: "console", Device: d})
	r.follow(hvc, d)
	return nil
}

// open opens one of them; nil is none.
func (r *run) open(what string, s words.Stream) (*terminal.Terminal, error) {
	var t *terminal.Terminal
	var err error
	switch s.Kind {
	case "stdio":
		t, err = terminal.Stdio(func() { r.end(machine.Ending{Reason: machine.Stopped}) })
	case "pty":
		if t, err = terminal.PTY(); err == nil {
			r.told = append(r.told, fmt.Sprintf("%s is at %s", what, t.Name))
		}
	case "file":
		t, err = terminal.File(s.Path)
	}
	if err != nil {
		return nil, fmt.Errorf("console %s: %w", what, err)
	}
	if t != nil {
		r.closers = append(r.closers, t.Close)
		r.terminals = append(r.terminals, t)
	}
	return t, nil
}

// typeSerial hands what is typed to the serial port once the guest runs. It
// ends with the program: a read of a terminal cannot be called off.
func (r *run) typeSerial(in io.Reader) {
	<-r.started
	b := make([]byte, 256)
	for {
		n, err := in.Read(b)
		if n > 0 && r.machine.Type(b[:n]) != nil {
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.log.Debug("end of what is typed", "err", err)
			}
			return
		}
	}
}

// follow tells the guest the terminal's size, now and whenever it changes.
func (r *run) follow(t *terminal.Terminal, d *console.Device) {
	tell := func() {
		if columns, rows, ok := t.Size(); ok {
			d.Resize(console.Size{Cols: columns, Rows: rows})
		}
	}
	tell()
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGWINCH)
	go func() {
		for range c {
			tell()
		}
	}()
	r.closers = append(r.closers, func() error { signal.Stop(c); close(c); return nil })
}
