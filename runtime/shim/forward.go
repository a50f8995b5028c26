package shim

import (
	"context"
	"net"

	"bulkhead/runtime/forward"
)

// mostForwarded is how many connections to a pod's loopback are under way at most.
const mostForwarded = 256

// forward takes what is meant for a pod's loopback, in its network namespace on the host, to
// where its programs listen, until the pod's sandbox ends. A kernel that cannot (before 5.9)
// costs nothing but kubectl's port-forward.
func (s *service) forward(t *taskState, namespace string) {
	if namespace == "" {
		return
	}
	l, err := forward.Listen(namespace)
	if err != nil {
		s.log.Warn("ports of the pod are not forwarded", "pod", t.id, "err", err)
		return
	}
	t.forwards = l
	free := make(chan struct{}, mostForwarded)
	go l.Serve(func(conn *net.TCPConn) {
		free <- struct{}{}
		go func() {
			defer func() { <-free }()
			s.forwardOne(t, conn)
		}()
	})
}

// forwardOne carries one connection. Where nobody listens it is reset, which is as near to
// refused as a connection comes that has been accepted.
func (s *service) forwardOne(t *taskState, conn *net.TCPConn) {
	defer conn.Close()
	file, err := conn.File()
	if err != nil {
		return
	}
	defer file.Close()
	c, err := t.rt.Open(t.id)
	if err == nil {
		err = c.Forward(context.Background(), uint16(conn.LocalAddr().(*net.TCPAddr).Port), file)
	}
	if err != nil {
		_ = conn.SetLinger(0)
		s.log.Debug("a connection was not forwarded", "pod", t.id, "to", conn.LocalAddr().String(), "err", err)
	}
}
