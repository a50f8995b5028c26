// Guestinit is PID 1 of a guest. It is one static program under many names: run
// by the kernel as /init it brings the guest up (guestinit/boot), and runs one
// command, or containers for the host (guestinit/agent); as a stage it becomes a
// container's process; under any other name it is that command of a small userland
// (guestinit/shell), for guests that have no other.
//
// The initramfs holds it as /init, beside /dev/console and /dev/null (character
// devices 5:1 and 1:3, which a Go program needs before it can mount anything)
// and, optionally, config.Path and config.ModuleList.
package main

import (
	"os"

	"bulkhead/guestinit/agent"
	"bulkhead/guestinit/boot"
	"bulkhead/guestinit/shell"
)

func main() {
	if os.Args[0] == agent.StageName { // which may be process 1 as well, of a container
		agent.Stage()
	}
	if os.Getpid() == 1 {
		boot.Main()
	}
	os.Exit(shell.Main(os.Args))
}
