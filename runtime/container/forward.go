package container

import (
	"context"
	"os"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Forward joins a connection of the host's with a TCP port of the container's loopback, until
// both sides have said all or ctx ends. The error is an errno's where nobody listens
// (ECONNREFUSED). conn stays the caller's to close.
func (c *Container) Forward(ctx context.Context, port uint16, conn *os.File) error {
	client, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Forward(ctx, &agent.ForwardRequest{Port: port}, conn)
}

// ForwardsFrom is the network namespace of the host's in whose loopback engines look for what
// listens in the container: a pod's, by its path; "" for all else.
func (c *Container) ForwardsFrom(spec *specs.Spec) string {
	if !podSandbox(spec.Annotations) || spec.Linux == nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return ""
}
