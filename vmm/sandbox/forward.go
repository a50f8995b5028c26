package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
)

var _ agent.Forwarding = (*sandbox)(nil)

// Forward implements agent.Forwarding: the guest's init connects to the port, in the network
// that all containers have, and what comes goes by a stream. An error after that, of either
// connection, resets the other.
func (s *sandbox) Forward(ctx context.Context, r *agent.ForwardRequest, file *os.File) error {
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return fmt.Errorf("the connection to forward: %w", err)
	}
	conn, ok := c.(rpc.Halved)
	if !ok {
		c.Close()
		return fmt.Errorf("a %T has no halves: %w", c, unix.EINVAL)
	}
	id, stream, err := s.enter(ctx, r.Port)
	if err != nil {
		conn.Close()
		return err
	}
	if err := rpc.Join(ctx, conn, stream); err != nil {
		go s.sever(id)
		return err
	}
	return nil
}

// enter has the guest's init join a stream with who listens at a port of its loopback.
func (s *sandbox) enter(ctx context.Context, port uint16) (rpc.StreamID, net.Conn, error) {
	id, came := s.lines.expect()
	// Should whoever asked go meanwhile, there is a stream to be severed all the same.
	if _, err := s.guest.Forward(whole(ctx), &rpc.ForwardRequest{Port: uint32(port), Stream: id[:]}); err != nil {
		s.lines.forget(id, came)
		return id, nil, s.why(rpc.Refused(err))
	}
	late := time.NewTimer(s.lines.patience)
	defer late.Stop()
	select {
	case stream := <-came:
		return id, stream, nil
	case <-late.C:
		s.lines.forget(id, came)
		go s.sever(id)
		return id, nil, errors.New("the guest opens no stream for its connection")
	}
}

// sever tells the guest of a connection that has been torn. By the stream's end alone it would
// not hear of that before its program has taken what the stream holds.
func (s *sandbox) sever(id rpc.StreamID) {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	_, _ = s.guest.Sever(ctx, &rpc.SeverRequest{Stream: id[:]}) // a guest that is gone has no connections
}
