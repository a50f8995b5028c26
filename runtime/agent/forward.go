package agent

import (
	"context"
	"os"
)

// Forwarding is a Handler that takes a connection from outside to a port of its own loopback,
// which is nobody's on the host. Forward connects there, and carries what comes either way
// until both have said all, one is torn, or ctx ends. Who refuses is told of by errno
// (ECONNREFUSED). The file, a connected stream socket, is the handler's.
type Forwarding interface {
	Forward(ctx context.Context, r *ForwardRequest, conn *os.File) error
}

// ForwardRequest says where to.
type ForwardRequest struct {
	Port uint16 `json:"port"` // of TCP, at 127.0.0.1 or else at ::1
}

// Forward is Forwarding's; conn stays the caller's, who closes it.
func (c *Client) Forward(ctx context.Context, r *ForwardRequest, conn *os.File) error {
	return c.call(ctx, "forward", r, nil, conn)
}
