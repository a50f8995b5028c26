package boot

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// followSize gives the terminal of the first container's init the size of the host's whenever that changes.
// The sandbox process is the leader of that terminal's session for this.
func (p *process) followSize() {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	p.bridge.SyncSize() // it may have changed before anybody listened
	for range changed {
		p.bridge.SyncSize()
	}
}
