// Package agent runs containers in a guest: as the guest's init it serves the
// agent protocol (runtime/agent/rpc) to the host over vsock, and makes, watches and
// reaps the containers' processes.
//
// A container's root and volumes come from one virtio-fs share, in which the host
// has put them side by side; its root may be on one of the machine's disks instead
// (disk.go). Its init is this program again, in namespaces of its
// own (stage.go): it mounts, becomes whom the configuration names, reports, and
// executes the container's program when it is told to. A further process (exec) is
// made in the same way, and joins the namespaces. The network is the guest's own, for
// all: what the host prepared for its first container (network.go).
//
// What a container does to the guest's kernel is its own loss: the wall is the
// machine's, and the host believes nothing that is said from here.
//
// Locks: server.mu, then process.mu.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/mdlayher/vsock"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
	"bulkhead/runtime/spec"
)

// Tag is the virtio-fs share with the containers' files.
const Tag = "bulkhead"

// shared is where the share is mounted in the guest.
const shared = "/run/bulkhead/share"

// server implements rpc.AgentService.
type server struct {
	dial func(port uint32) (net.Conn, error)

	mu         sync.Mutex
	begun      bool       // there may be containers
	disks      []device   // the machine's, since then
	first      *container // whose namespaces others can share
	containers map[string]*container
	stages     map[int]*waiting // by pid as the guest has it; those that have not been reaped, and what became of them
	spare      *spare           // or nil
	forwards   map[rpc.StreamID]context.CancelFunc
}

// Run serves the host until it hangs up, which is an error: a guest has no life
// beyond its host's interest in it. Before Begin it calls again: it is a copy then
// of a guest whose host is elsewhere, and its own waits for the call.
func Run() error {
	rpc.Silence() // a container can speak to a port of the host's, and not to ours; the console is small
	s := &server{
		dial:       func(port uint32) (net.Conn, error) { return vsock.Dial(vsock.Host, port, nil) },
		containers: map[string]*container{},
		stages:     map[int]*waiting{},
		forwards:   map[rpc.StreamID]context.CancelFunc{},
	}
	if err := prepareGroups(); err != nil {
		return blame(err)
	}
	if err := promiseMemory(); err != nil {
		return err
	}
	go s.reap()
	note("ready: calls the host")
	for {
		conn, err := s.dial(rpc.CallsPort)
		if errors.Is(err, unix.ETIMEDOUT) || errors.Is(err, unix.ECONNRESET) {
			continue // a host that has much to do, or this guest is a copy, which ends its connections
		}
		if err != nil {
			return blame(fmt.Errorf("call the host: %w", err))
		}
		if err := serve(conn, s); s.hasBegun() {
			return err
		}
	}
}

// note puts a line into the kernel's log, whose times say what the way to it took.
func note(text string) {
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(f, "<6>guestinit: %s\n", text) // KERN_INFO
		f.Close()
	}
}

func (s *server) hasBegun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun
}

func serve(conn net.Conn, s rpc.AgentService) error {
	srv, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	rpc.RegisterAgentService(srv, s)
	l := newOnce(conn)
	err = srv.Serve(context.Background(), l)
	return fmt.Errorf("the host hung up (%v)", err)
}

// once is a listener with one connection, at whose end it is closed.
type once struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
	addr  net.Addr
}

func newOnce(c net.Conn) *once {
	l := &once{conns: make(chan net.Conn, 1), done: make(chan struct{}), addr: c.LocalAddr()}
	l.conns <- &watched{c, l}
	return l
}

type watched struct {
	net.Conn
	l *once
}

func (w *watched) Close() error {
	err := w.Conn.Close()
	w.l.Close()
	return err
}

func (l *once) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *once) Close() error   { l.close.Do(func() { close(l.done) }); return nil }
func (l *once) Addr() net.Addr { return l.addr }

// Hello implements rpc.AgentService, as do the following.
func (s *server) Hello(_ context.Context, r *rpc.HelloRequest) (*rpc.HelloResponse, error) {
	if r.Version != rpc.Version {
		return nil, fmt.Errorf("the host speaks version %d of the protocol, this init %d", r.Version, rpc.Version)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, rpc.Refuse(err)
	}
	if r.Template {
		for _, k := range []*kind{&networks, &disks} {
			if err := k.letGo(0); err != nil {
				return nil, rpc.Refuse(err)
			}
		}
		if err := s.prepareSpare(); err != nil {
			return nil, rpc.Refuse(err)
		}
	}
	return &rpc.HelloResponse{Version: rpc.Version, Kernel: unix.ByteSliceToString(u.Release[:])}, nil
}

func (s *server) Begin(_ context.Context, r *rpc.BeginRequest) (*rpc.BeginResponse, error) {
	return &rpc.BeginResponse{}, rpc.Refuse(s.begin(r))
}

func (s *server) Create(ctx context.Context, r *rpc.CreateRequest) (*rpc.CreateResponse, error) {
	return &rpc.CreateResponse{}, rpc.Refuse(s.create(ctx, r))
}

func (s *server) create(ctx context.Context, r *rpc.CreateRequest) (err error) {
	parsed, err := spec.Parse(r.Spec)
	if err != nil {
		return fmt.Errorf("parse the configuration: %w", err)
	}
	if parsed.Process == nil || parsed.Root == nil || len(parsed.Process.Args) == 0 {
		return errors.New("the configuration has no process or no root")
	}
	s.mu.Lock()
	if !s.begun {
		s.mu.Unlock()
		return errors.New("a container before Begin")
	}
	if s.containers[r.Container] != nil {
		s.mu.Unlock()
		return fmt.Errorf("container %q: %w", r.Container, unix.EEXIST)
	}
	c := &container{name: r.Container, ordinary: r.OrdinaryInit, filter: r.Filter, share: r.Share, first: s.first}
	if parsed.Linux != nil && parsed.Linux.Personality != nil {
		c.domain = parsed.Linux.Personality.Domain
	}
	if c.first == nil && len(c.share) > 0 {
		s.mu.Unlock()
		return fmt.Errorf("container %q: there is none to share namespaces with", r.Container)
	}
	s.containers[r.Container] = c
	s.mu.Unlock()
	defer func() {
		if err != nil {
			s.mu.Lock()
			delete(s.containers, r.Container)
			s.mu.Unlock()
			c.emptySlots()
			c.group.remove()
		}
	}()
	var sp *spare
	if c.first == nil {
		sp = s.takeSpare()
	}
	if sp != nil {
		c.group = sp.group
		err = c.group.limit(r.Limits, r.Cgroup)
	} else {
		c.group, err = newGroup(r.Container, r.Limits, r.Cgroup)
	}
	if err != nil {
		sp.drop()
		return err
	}
	st := &stage{Spec: spec.Of(parsed), Process: parsed.Process, Root: r.Root, Binds: r.Binds, Overlay: r.Overlay, Share: r.Share, Domain: c.domain}
	if st.Disks, err = s.disksOf(c, r.Disks); err != nil {
		return err
	}
	c.flush = slices.ContainsFunc(st.Disks, func(d disk) bool { return d.Node != "" && !d.ReadOnly })
	init, err := s.launch(ctx, c, st, r.Streams, sp)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.init = init
	if s.first == nil {
		s.first = c
	}
	return nil
}

func (s *server) Delete(ctx context.Context, r *rpc.DeleteRequest) (*rpc.DeleteResponse, error) {
	return &rpc.DeleteResponse{}, rpc.Refuse(s.delete(ctx, r.Container))
}

func (s *server) delete(ctx context.Context, name string) error {
	c, err := s.find(name)
	if err != nil {
		return err
	}
	if c == s.first {
		return fmt.Errorf("container %q is the guest's first: %w", name, unix.EBUSY)
	}
	_ = c.group.freeze(ctx, false) // what is frozen is killed all the same, of cgroup.kill; this is for the wait
	if err := c.group.signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-c.init.stage.exited:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.group.await(ctx, "populated", 0); err != nil {
		return err
	}
	c.init.forsake()
	c.emptySlots()
	s.mu.Lock()
	delete(s.containers, name)
	s.mu.Unlock()
	c.group.remove()
	forgetFiles()
	return nil
}

// forgetFiles lets go of files that nobody has open, so that the host can take away
// those of a container that is gone.
func forgetFiles() {
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0) // names and inodes (Documentation/admin-guide/sysctl/vm.rst)
}

func (s *server) find(name string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[name]
	if c == nil || c.init == nil {
		return nil, fmt.Errorf("container %q: %w", name, unix.ENOENT)
	}
	return c, nil
}

// process finds one of a container's that the host has started; 0 is init.
func (s *server) process(name string, pid int32) (*process, error) {
	c, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		return c.init, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range c.others {
		if p.inner == int(pid) {
			return p, nil
		}
	}
	if c.init.inner == int(pid) {
		return c.init, nil
	}
	return nil, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
}

func (s *server) Start(_ context.Context, r *rpc.StartRequest) (*rpc.StartResponse, error) {
	p, err := s.process(r.Container, 0)
	if err == nil {
		err = p.release()
	}
	return &rpc.StartResponse{}, rpc.Refuse(err)
}

func (s *server) Exec(ctx context.Context, r *rpc.ExecRequest) (*rpc.ExecResponse, error) {
	pid, err := s.exec(ctx, r)
	return &rpc.ExecResponse{Pid: int32(pid)}, rpc.Refuse(err)
}

func (s *server) exec(ctx context.Context, r *rpc.ExecRequest) (int, error) {
	c, err := s.find(r.Container)
	if err != nil {
		return 0, err
	}
	p := new(specs.Process)
	if err := json.Unmarshal(r.Process, p); err != nil {
		return 0, fmt.Errorf("parse the process: %w", err)
	}
	if len(p.Args) == 0 {
		return 0, errors.New("the process has no program")
	}
	x, err := s.launch(ctx, c, &stage{Process: p, Join: true, Init: c.init.pid, Domain: c.domain}, r.Streams, nil)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	c.others = append(c.others, x)
	s.mu.Unlock()
	return x.inner, x.release()
}

func (s *server) Signal(_ context.Context, r *rpc.SignalRequest) (*rpc.SignalResponse, error) {
	return &rpc.SignalResponse{}, rpc.Refuse(s.signal(r))
}

func (s *server) signal(r *rpc.SignalRequest) error {
	const most = 64 // _NSIG
	if r.Signal > most {
		return fmt.Errorf("signal %d: %w", r.Signal, unix.EINVAL)
	}
	n := unix.Signal(r.Signal)
	if r.All {
		c, err := s.find(r.Container)
		if err != nil {
			return err
		}
		return c.group.signal(n)
	}
	p, err := s.process(r.Container, r.Pid)
	if err != nil {
		return err
	}
	return p.signal(n)
}

func (s *server) Wait(ctx context.Context, r *rpc.WaitRequest) (*rpc.WaitResponse, error) {
	w, err := s.wait(ctx, r)
	return w, rpc.Refuse(err)
}

func (s *server) wait(ctx context.Context, r *rpc.WaitRequest) (*rpc.WaitResponse, error) {
	p, err := s.process(r.Container, r.Pid)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	c := p.container
	c.forget(p)
	s.mu.Unlock()
	if c.flush && p == c.init {
		unix.Sync() // the host ends the machine next, and what a disk has not got by then is lost
	}
	return p.outcome(), nil
}

func (s *server) Resize(_ context.Context, r *rpc.ResizeRequest) (*rpc.ResizeResponse, error) {
	p, err := s.process(r.Container, r.Pid)
	if err == nil {
		err = p.resize(uint16(r.Rows), uint16(r.Columns))
	}
	return &rpc.ResizeResponse{}, rpc.Refuse(err)
}

func (s *server) Processes(_ context.Context, r *rpc.ProcessesRequest) (*rpc.ProcessesResponse, error) {
	c, err := s.find(r.Container)
	if err != nil {
		return nil, rpc.Refuse(err)
	}
	pids, err := c.group.processes()
	return &rpc.ProcessesResponse{Processes: describe("/proc", pids)}, rpc.Refuse(err)
}

func (s *server) Stats(_ context.Context, r *rpc.StatsRequest) (*rpc.StatsResponse, error) {
	c, err := s.find(r.Container)
	if err != nil {
		return nil, rpc.Refuse(err)
	}
	return c.group.stats(), nil
}

func (s *server) Update(_ context.Context, r *rpc.UpdateRequest) (*rpc.UpdateResponse, error) {
	c, err := s.find(r.Container)
	if err == nil {
		err = c.group.limit(r.Limits, r.Cgroup)
	}
	return &rpc.UpdateResponse{}, rpc.Refuse(err)
}

func (s *server) Freeze(ctx context.Context, r *rpc.FreezeRequest) (*rpc.FreezeResponse, error) {
	c, err := s.find(r.Container)
	if err == nil {
		err = c.group.freeze(ctx, r.Frozen)
	}
	return &rpc.FreezeResponse{}, rpc.Refuse(err)
}

// Diagnose tells goroutines ("stacks") or how the guest fares.
func (s *server) Diagnose(_ context.Context, r *rpc.DiagnoseRequest) (*rpc.DiagnoseResponse, error) {
	if r.What == "stacks" {
		b := make([]byte, 1<<20)
		return &rpc.DiagnoseResponse{Text: string(b[:runtime.Stack(b, true)])}, nil
	}
	s.mu.Lock()
	text := fmt.Sprintf("containers %d\nprocesses %d\ngoroutines %d\n", len(s.containers), len(s.stages), runtime.NumGoroutine())
	s.mu.Unlock()
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) == nil {
		text += fmt.Sprintf("up %v\n", time.Duration(up.Nano()).Round(time.Millisecond))
	}
	return &rpc.DiagnoseResponse{Text: text}, nil
}
