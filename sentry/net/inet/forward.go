package inet

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// connectPatience is for who listens and does not accept: on a loopback that is a full backlog,
// which the library would try for two minutes, and whoever asked has a place for so long.
const connectPatience = 15 * time.Second

// Forward joins a connection of the host's with a port of loopback, 127.0.0.1's or else
// ::1's, until both sides have said all, one is torn, or ctx ends. It closes conn, a
// connected stream socket. ECONNREFUSED: nobody listens.
func (n *Stack) Forward(ctx context.Context, port uint16, conn *os.File) error {
	host, err := pollable(conn)
	conn.Close()
	if err != nil {
		return err
	}
	defer host.Close()
	entering, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	inside, err := n.enter(entering, loopback4, header.IPv4ProtocolNumber, port)
	if err != nil {
		var err6 error
		if inside, err6 = n.enter(entering, header.IPv6Loopback, header.IPv6ProtocolNumber, port); err6 != nil {
			return err
		}
	}
	defer inside.leave()
	defer context.AfterFunc(ctx, func() {
		host.Close()
		inside.Close()
	})()
	back := make(chan struct{})
	go func() {
		defer close(back)
		if _, err := io.Copy(onlyWriter{host}, inside); err != nil {
			inside.Close() // nobody reads any more: what the other way brings has no end of its own
			return
		}
		_ = shutdown(host)
	}()
	if _, err := io.Copy(inside, onlyReader{host}); err != nil {
		inside.Close()
	} else {
		_ = inside.CloseWrite()
	}
	<-back
	return ctx.Err()
}

// Without the methods by which io.Copy would ask the host's kernel to splice.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// guest is a connection of the library's to one of the stack's sockets.
type guest struct {
	*gonet.TCPConn
	stack *Stack
	at    endpoint
}

func (g *guest) leave() {
	g.Close()
	g.stack.guests.Delete(g.at)
}

// enter connects to a port. Who listens has to know before the handshake that the other end
// is none of the stack's sockets.
func (n *Stack) enter(ctx context.Context, at tcpip.Address, protocol tcpip.NetworkProtocolNumber, port uint16) (*guest, error) {
	wq := &waiter.Queue{}
	ep, terr := n.tcpip().NewEndpoint(tcp.ProtocolNumber, protocol, wq)
	if terr != nil {
		return nil, errno(terr)
	}
	if terr := ep.Bind(tcpip.FullAddress{Addr: at}); terr != nil {
		ep.Close()
		return nil, errno(terr)
	}
	local, terr := ep.GetLocalAddress()
	if terr != nil {
		ep.Close()
		return nil, errno(terr)
	}
	g := &guest{stack: n, at: endpoint{at, local.Port}}
	n.guests.Store(g.at, nil)
	entry, ready := waiter.NewChannelEntry(waiter.EventOut | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Connect(tcpip.FullAddress{Addr: at, Port: port})
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			terr = ep.LastError()
		case <-ctx.Done():
			terr = &tcpip.ErrTimeout{}
		}
	}
	if terr != nil {
		ep.Close()
		n.guests.Delete(g.at)
		return nil, errno(terr)
	}
	g.TCPConn = gonet.NewTCPConn(wq, ep)
	return g, nil
}

// pollable is another descriptor of a socket, which Go's poller waits for.
func pollable(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	cerr := raw.Control(func(old uintptr) {
		if fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	if err := errors.Join(err, cerr); err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// shutdown tells a socket's peer that nothing more comes.
func shutdown(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) })
	return errors.Join(err, cerr)
}
