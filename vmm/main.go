// Command vmm runs Linux guests on KVM: `vmm boot KERNEL`.
package main

import (
	"os"
	"time"

	"bulkhead/vmm/cli"
)

// began is as early as a program of Go's can tell.
var began = time.Now()

func main() { os.Exit(cli.Program{Began: began}.Main(os.Args[1:])) }
