package boot

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// followSize gives init's terminal the size of the host's whenever that changes.
// The sandbox process is the leader of that terminal's session for this.
func (s *sandbox) followSize() {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	s.init.bridge.SyncSize() // it may have changed before anybody listened
	for range changed {
		s.init.bridge.SyncSize()
	}
}
