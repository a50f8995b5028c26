package container

import (
	"io"
	"os"

	"bulkhead/runtime/console"
)

// Terminal connects a container's terminal with the standard streams.
type Terminal struct {
	proxy *console.Proxy // where standard input is a terminal
	done  chan struct{}  // otherwise: closed when all output is copied
}

// AttachTerminal begins copying. Where standard input is no terminal there is
// none to put into raw mode, and bytes are copied as they are.
func AttachTerminal(master *os.File) (*Terminal, error) {
	if console.IsTerminal(os.Stdin) {
		p, err := console.Attach(os.Stdin, os.Stdin, os.Stdout, master)
		return &Terminal{proxy: p}, err
	}
	t := &Terminal{done: make(chan struct{})}
	go func() {
		io.Copy(os.Stdout, master) // ends with EIO when the last slave is closed
		close(t.done)
	}()
	go io.Copy(master, os.Stdin)
	return t, nil
}

// Finish waits for the last output, after the end of all who could write it,
// and restores the terminal.
func (t *Terminal) Finish() {
	if t.proxy != nil {
		t.proxy.Finish()
		return
	}
	<-t.done
}
