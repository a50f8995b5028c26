package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// Forward brings a connection from outside to who listens on the guest's loopback, which is
// that of all containers.
func (s *server) Forward(ctx context.Context, r *rpc.ForwardRequest) (*rpc.ForwardResponse, error) {
	return &rpc.ForwardResponse{}, rpc.Refuse(s.forward(ctx, r))
}

func (s *server) forward(ctx context.Context, r *rpc.ForwardRequest) error {
	id, there, err := rpc.ParseStreamID(r.Stream)
	if err != nil {
		return err
	}
	if !there || r.Port == 0 || r.Port > math.MaxUint16 {
		return fmt.Errorf("forward to port %d, a stream's id of %d bytes: %w", r.Port, len(r.Stream), unix.EINVAL)
	}
	conn, err := dialLoopback(ctx, strconv.Itoa(int(r.Port)), connectPatience)
	if err != nil {
		return err
	}
	stream, err := s.openStream(id)
	if err != nil {
		conn.Close()
		return err
	}
	joined, sever := context.WithCancel(context.Background()) // longer than the call
	s.mu.Lock()
	s.forwards[id] = sever
	s.mu.Unlock()
	go func() {
		_ = rpc.Join(joined, conn, stream) // the host sees how it ends
		sever()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.forwards, id)
	}()
	return nil
}

// connectPatience is for who listens and does not accept: nothing is lost on a loopback, so
// that its backlog is full. Linux would try for two minutes (tcp(7), tcp_syn_retries), in which the
// host keeps a place for a client that may have gone: by a FIN alone nobody can tell.
const connectPatience = 15 * time.Second

// dialLoopback tells of 127.0.0.1's refusal where ::1 has none either.
func dialLoopback(ctx context.Context, port string, patience time.Duration) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if late := (net.Error)(nil); errors.As(err, &late) && late.Timeout() {
		return nil, fmt.Errorf("who listens at port %s accepts nobody: %w", port, unix.ETIMEDOUT)
	}
	if err != nil {
		var err6 error
		if conn, err6 = d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", port)); err6 != nil {
			return nil, err
		}
	}
	return conn.(*net.TCPConn), nil
}

func (s *server) Sever(_ context.Context, r *rpc.SeverRequest) (*rpc.SeverResponse, error) {
	id, _, err := rpc.ParseStreamID(r.Stream)
	if err != nil {
		return nil, rpc.Refuse(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sever := s.forwards[id]; sever != nil {
		sever()
	}
	return &rpc.SeverResponse{}, nil
}
