// Package forward accepts what is meant for a pod's loopback in the network namespace on the
// host: nobody listens there, for the pod's programs do so behind a wall, but an engine's port
// forwarding (CRI's PortForward: containerd, pkg/cri/server/sandbox_portforward_linux.go)
// connects there.
//
// Two sockets take the connections to all ports: a program of BPF is asked for each which
// socket shall have it (bpf_sk_lookup; Documentation/bpf/prog_sk_lookup.rst, Linux 5.9). It
// changes no address, and nothing else of the namespace.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Listener accepts connections to any port of a namespace's loopback.
type Listener struct {
	sockets []*net.TCPListener // of IPv4 and, where there is such, IPv6
	refs    []io.Closer        // the kernel asks until all are closed
}

// Listen listens in the network namespace at path, until Close or the end of this process.
func Listen(path string) (_ *Listener, err error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("forward: %w", err)
	}
	defer ns.Close()
	l := &Listener{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("forward: in %s: %w", path, err)
			l.Close()
		}
	}()
	if l.sockets, err = listenIn(int(ns.Fd())); err != nil {
		return nil, err
	}
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Name: "forward", Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	if err != nil {
		return nil, fmt.Errorf("map of sockets: %w", err)
	}
	l.refs = append(l.refs, sockets)
	for i, socket := range l.sockets {
		raw, err := socket.SyscallConn()
		if err != nil {
			return nil, err
		}
		cerr := raw.Control(func(fd uintptr) { err = sockets.Put(uint32(i), uint64(fd)) })
		if err := errors.Join(err, cerr); err != nil {
			return nil, fmt.Errorf("put a listener into a map: %w", err)
		}
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "forward", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Apache-2.0", Instructions: lookup(sockets.FD()),
	})
	if err != nil {
		return nil, fmt.Errorf("load a program: %w", err)
	}
	l.refs = append(l.refs, program)
	at, err := link.AttachNetNs(int(ns.Fd()), program)
	if err != nil {
		return nil, fmt.Errorf("attach a program: %w", err)
	}
	l.refs = append(l.refs, at)
	return l, nil
}

// Serve calls take with each connection, until Close; conn's local address has the port.
func (l *Listener) Serve(take func(conn *net.TCPConn)) {
	var all sync.WaitGroup
	for _, socket := range l.sockets {
		all.Go(func() {
			for {
				conn, err := socket.AcceptTCP()
				if err != nil {
					return
				}
				take(conn)
			}
		})
	}
	all.Wait()
}

// Close ends it, and Serve.
func (l *Listener) Close() error {
	var err error
	for _, r := range slices.Backward(l.refs) {
		err = errors.Join(err, r.Close())
	}
	for _, socket := range l.sockets {
		err = errors.Join(err, socket.Close())
	}
	return err
}

// listenIn makes sockets at ports of the kernel's choice in a network namespace. There are
// two, for one of IPv6 that is bound to an address takes nothing of IPv4's.
func listenIn(ns int) (sockets []*net.TCPListener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Back again afterwards: should this be the process's first thread, which does not end with
		// a goroutine, its namespace is what /proc/PID/ns/net says of the process.
		runtime.LockOSThread()
		home, herr := os.Open("/proc/thread-self/ns/net")
		if herr != nil {
			err = herr
			return
		}
		defer home.Close()
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter: %w", err)
			return
		}
		defer func() {
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread() // else the thread ends with the goroutine
			}
		}()
		var of net.ListenConfig
		of.SetMultipathTCP(false) // whose sockets no map of BPF's takes
		for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, lerr := of.Listen(context.Background(), "tcp", at)
			if lerr != nil {
				if len(sockets) == 0 {
					err = lerr
				}
				return // without IPv6
			}
			sockets = append(sockets, l.(*net.TCPListener))
		}
	}()
	<-done
	return sockets, err
}

// Offsets in struct bpf_sk_lookup (linux/bpf.h).
const (
	offFamily   = 8
	offProtocol = 12
	offLocal4   = 40 // network's order
	offLocal6   = 44
)

// lookup gives connections of TCP to 127.0.0.0/8 and ::1 to the sockets in the map, and leaves
// all else to the kernel.
func lookup(sockets int) asm.Instructions {
	const pass = "pass"
	is := func(offset int16, want int32) asm.Instructions {
		return asm.Instructions{asm.LoadMem(asm.R2, asm.R6, offset, asm.Word), asm.JNE.Imm(asm.R2, want, pass)}
	}
	p := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	p = append(p, is(offProtocol, unix.IPPROTO_TCP)...)
	p = append(p,
		asm.LoadMem(asm.R2, asm.R6, offFamily, asm.Word),
		asm.JEq.Imm(asm.R2, unix.AF_INET6, "v6"),
		asm.JNE.Imm(asm.R2, unix.AF_INET, pass),
		asm.LoadMem(asm.R2, asm.R6, offLocal4, asm.Word),
		asm.And.Imm(asm.R2, 0xff), // the first byte
		asm.JNE.Imm(asm.R2, 127, pass),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word), // the first socket
		asm.Ja.Label("ours"),
	)
	v6 := append(append(append(is(offLocal6, 0), is(offLocal6+4, 0)...), is(offLocal6+8, 0)...), is(offLocal6+12, 1<<24)...)
	v6[0] = v6[0].WithSymbol("v6")
	p = append(p, v6...)
	return append(p,
		asm.StoreImm(asm.RFP, -4, 1, asm.Word), // the second
		asm.LoadMapPtr(asm.R1, sockets).WithSymbol("ours"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, pass),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(), // an error leaves the connection to the kernel, which refuses it
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol(pass), // SK_PASS
		asm.Return(),
	)
}
