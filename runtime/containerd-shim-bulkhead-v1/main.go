// Command containerd-shim-bulkhead-v1 is what containerd starts for containers of the
// runtime type io.containerd.bulkhead.v1 (runtime/shim). It is a program of its own beside
// bulkhead, which it starts as the sandboxes' processes: one stays with each pod and is to
// be small, and what containerd's protocol brings along would cost each start of bulkhead.
package main

import (
	"os"

	"bulkhead/runtime/program"
	"bulkhead/runtime/shim"
	"bulkhead/vmm/host"
)

func main() {
	os.Exit(shim.Program{Version: program.Version, Machine: host.Check}.Main(os.Args[1:]))
}
