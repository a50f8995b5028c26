// Command hwtest says what this host can do for Bulkhead, proven by doing, and
// runs commands in the lab where it cannot. `hwtest --help` has the rest.
package main

import (
	"os"

	"bulkhead/hwtest/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
