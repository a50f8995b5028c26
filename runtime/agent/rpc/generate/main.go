// Generate writes the Go of agent.proto, as protoc would with the plugins that
// go.mod names as tools. It runs in the directory of the .proto (go generate).
package main

import (
	"fmt"
	"os"

	"bulkhead/runtime/agent/rpc/generate/proto"
)

func main() {
	files, err := proto.Generate("agent.proto")
	if err == nil {
		for name, content := range files {
			if err = os.WriteFile(name, content, 0o644); err != nil {
				break
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}
