package shim

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"bulkhead/runtime/bundle"
	"bulkhead/runtime/container"
	"bulkhead/runtime/state"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// service answers containerd: Task of containerd/api/runtime/task/v2/shim.proto.
type service struct {
	program Program
	flags   *flags
	logs    io.Writer
	log     *slog.Logger
	events  *publisher

	mu    sync.Mutex
	tasks map[string]*taskState // nil while one is made

	shutdown sync.Once
	done     chan struct{} // closed by Shutdown
}

var _ task.TTRPCTaskService = (*service)(nil)

// nothing is the answer of most calls.
var nothing = &emptypb.Empty{}

func notFound(format string, args ...any) error {
	return status.Errorf(codes.NotFound, format, args...)
}

// coded gives an error the code that containerd knows the commonest by.
func coded(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, state.ErrNotExist), errors.Is(err, unix.ESRCH), errors.Is(err, container.ErrNotRunning):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, state.ErrExist):
		return status.Error(codes.AlreadyExists, err.Error())
	case errors.Is(err, container.ErrPaused):
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}

func (s *service) task(id string) (*taskState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[id]; t != nil {
		return t, nil
	}
	return nil, notFound("container %s is not here", id)
}

func (s *service) process(id, execID string) (*taskState, *process, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, nil, err
	}
	p := t.find(execID)
	if p == nil {
		return nil, nil, notFound("process %s of container %s is not here", execID, id)
	}
	return t, p, nil
}

// Create makes a container, up to just before its program's first instruction.
func (s *service) Create(ctx context.Context, r *task.CreateTaskRequest) (_ *task.CreateTaskResponse, err error) {
	if r.Checkpoint != "" {
		return nil, status.Error(codes.Unimplemented, "restoring a checkpoint is not implemented")
	}
	s.mu.Lock()
	_, exists := s.tasks[r.ID]
	if !exists {
		s.tasks[r.ID] = nil
	}
	s.mu.Unlock()
	if exists {
		return nil, status.Errorf(codes.AlreadyExists, "container %s exists", r.ID)
	}
	var t *taskState
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			delete(s.tasks, r.ID)
			err = coded(err)
		} else {
			s.tasks[r.ID] = t
		}
	}()
	t, c, err := s.create(ctx, r)
	if err != nil {
		return nil, err
	}
	pid := t.init.pid
	s.events.publish(topicCreate, &events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Pid: pid,
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	// Only now, so that the end's event is not before the beginning's.
	child, gofer := c.Process.Process, c.Process.Gofer
	go s.watch(t, child, gofer)
	return &task.CreateTaskResponse{Pid: pid}, nil
}

func (s *service) create(ctx context.Context, r *task.CreateTaskRequest) (_ *taskState, _ *container.Container, err error) {
	rt := s.program.runtime(s.flags.namespace, s.logs, s.flags.debug)
	if err := configure(rt, r.Options); err != nil {
		return nil, nil, err
	}
	if rt.Debug && !s.flags.debug {
		rt.Log = newLog(s.logs, true)
	}
	root := filepath.Join(r.Bundle, "rootfs")
	if err := mountRoot(r.Rootfs, root); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil && len(r.Rootfs) > 0 {
			unmountRoot(root)
		}
	}()
	if err := (&record{rt.Root, rt.SystemdCgroup}).write(r.Bundle); err != nil {
		return nil, nil, err
	}
	b, err := bundle.Load(r.Bundle)
	if err != nil {
		return nil, nil, err
	}
	t := &taskState{
		id: r.ID, bundle: r.Bundle, rt: rt, execs: map[string]*process{},
		init: newProcess("", streams{r.Stdin, r.Stdout, r.Stderr, r.Terminal}),
	}
	o, err := openStreams(t.init.streams, r.ID, s.flags.namespace)
	if err != nil {
		return nil, nil, err
	}
	defer o.handedOver()
	defer func() {
		if err != nil {
			o.handedOver()
			o.ended()
		}
	}()
	if size := b.Spec.Process.ConsoleSize; o.pty != nil && size != nil {
		o.resize(uint16(size.Height), uint16(size.Width))
	}
	b.Spec.Process.Terminal = r.Terminal
	// Should the caller go away in the middle, what is half made is undone.
	c, err := rt.Create(ctx, &container.Create{ID: r.ID, Bundle: b, Pty: o.pty, Stdio: o.files})
	if err != nil {
		return nil, nil, err
	}
	c.Release()
	t.init.stdio, t.init.pid = o, uint32(c.State.Sandbox.PID)
	t.kills = s.listen(c)
	s.forward(t, c.ForwardsFrom(b.Spec))
	return t, c, nil
}

// listenPatience is for a sandbox that has just answered.
const listenPatience = 10 * time.Second

// listen begins to hear of a container's kills before its program runs.
func (s *service) listen(c *container.Container) *container.OOMWatch {
	ctx, cancel := context.WithCancel(context.Background())
	late := time.AfterFunc(listenPatience, cancel)
	w, err := c.WatchOOM(ctx)
	if err == nil && late.Stop() {
		return w
	}
	cancel()
	if w != nil {
		w.Close()
	}
	s.log.Warn("nobody hears of kills for want of memory", "container", c.State.ID, "err", err)
	return nil
}

// watch waits for a container's end and tells of it.
func (s *service) watch(t *taskState, child, gofer *os.Process) {
	c, err := t.rt.Open(t.id)
	if err != nil { // deleted by hand
		c = &container.Container{State: &state.State{ID: t.id}}
	}
	end := s.tellKills(t)
	code, crash := t.awaitSandbox(child, c)
	end()
	if t.forwards != nil {
		t.forwards.Close()
	}
	if n, _ := c.HostOOMKills(); n > 0 { // of the sandbox itself, whose memory the host limits as well
		s.killed(t)
	}
	if gofer != nil {
		gofer.Wait() // it ends with the sandbox
	}
	if crash != nil {
		s.log.Error("crash", "container", t.id, "err", crash)
	}
	// What ran beside the program ended with it, and is told of first.
	t.mu.Lock()
	execs := make([]*process, 0, len(t.execs))
	for _, p := range t.execs {
		execs = append(execs, p)
	}
	t.mu.Unlock()
	for _, p := range execs {
		p.mu.Lock()
		running := p.status == taskapi.Status_RUNNING
		p.mu.Unlock()
		if running {
			<-p.done // its own waiter hears that the sandbox is gone
		}
	}
	s.finish(t, t.init, code)
}

// tellKills tells of programs that are killed for want of memory, until the function that it
// gives is called after the container's end: it tells of those that are untold.
func (s *service) tellKills(t *taskState) (end func()) {
	if t.kills == nil {
		return func() {}
	}
	last, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, ok := t.kills.Next(); !ok {
				return
			}
			// One at a time: a container is not to push out others' events.
			select {
			case <-s.killed(t):
			case <-last:
			}
		}
	}()
	return func() {
		close(last)
		t.kills.End()
		<-done
		t.kills.Close()
	}
}

// killed tells that memory ran out, after the program's beginning.
func (s *service) killed(t *taskState) (over <-chan struct{}) {
	t.init.starting.Lock()
	defer t.init.starting.Unlock()
	return s.events.publish(topicOOM, &events.TaskOOM{ContainerID: t.id})
}

// finish notes a process's end and tells of it, after its beginning.
func (s *service) finish(t *taskState, p *process, code uint32) {
	p.starting.Lock()
	defer p.starting.Unlock()
	if !p.ended(code) {
		return
	}
	id := p.execID
	if id == "" {
		id = t.id
	}
	s.events.publish(topicExit, &events.TaskExit{ContainerID: t.id, ID: id, Pid: p.pid, ExitStatus: code, ExitedAt: timestamppb.New(p.at)})
}

// Start lets a container's program run, or starts a process beside it.
func (s *service) Start(ctx context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.starting.Lock()
	defer p.starting.Unlock()
	if r.ExecID == "" {
		if p.hasEnded() {
			return nil, status.Errorf(codes.FailedPrecondition, "container %s has ended before its start", r.ID)
		}
		if err := t.start(ctx); err != nil {
			return nil, coded(err)
		}
		p.mu.Lock()
		p.status = taskapi.Status_RUNNING
		p.mu.Unlock()
		s.events.publish(topicStart, &events.TaskStart{ContainerID: t.id, Pid: p.pid})
		return &task.StartResponse{Pid: p.pid}, nil
	}
	p.mu.Lock()
	fresh := p.status == taskapi.Status_CREATED
	p.mu.Unlock()
	if !fresh {
		return nil, status.Errorf(codes.FailedPrecondition, "process %s of container %s was started already", r.ExecID, r.ID)
	}
	if err := t.startExec(ctx, p, s.flags.namespace); err != nil {
		p.ended(255) // as runc's shim has it; there is no event of it
		return nil, coded(err)
	}
	s.events.publish(topicExecStarted, &events.TaskExecStarted{ContainerID: t.id, ExecID: p.execID, Pid: p.pid})
	go func() {
		e, err := p.exec.Wait(context.Background())
		code := uint32(e.Exit())
		if err != nil {
			s.log.Warn("a process is not waited for any more", "container", t.id, "exec", p.execID, "err", err)
			code = killed
		}
		s.finish(t, p, code)
	}()
	return &task.StartResponse{Pid: p.pid}, nil
}

// deletePatience is for a terminal's last output to find a reader.
const deletePatience = 5 * time.Second

// Delete takes away what a process that has ended leaves.
func (s *service) Delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID != "" {
		p.starting.Lock()
		defer p.starting.Unlock()
		if !p.hasEnded() {
			p.mu.Lock()
			running := p.status == taskapi.Status_RUNNING
			p.mu.Unlock()
			if running {
				return nil, status.Errorf(codes.FailedPrecondition, "process %s of container %s is running", r.ExecID, r.ID)
			}
			p.ended(0)
		}
		s.drain(ctx, p)
		t.mu.Lock()
		delete(t.execs, r.ExecID)
		t.mu.Unlock()
		return p.deleted(), nil
	}
	c, err := t.rt.Open(r.ID)
	switch {
	case errors.Is(err, state.ErrNotExist): // by hand
	case err != nil:
		return nil, coded(err)
	case !p.hasEnded() && c.Status() != specs.StateStopped && c.Status() != specs.StateCreated:
		return nil, status.Errorf(codes.FailedPrecondition, "container %s is %s", r.ID, c.Status())
	}
	if err := t.rt.Delete(context.WithoutCancel(ctx), r.ID, true); err != nil {
		return nil, coded(err)
	}
	<-p.done // its processes are gone, and the watcher about to say so
	s.drain(ctx, p)
	if err := unmountRoot(filepath.Join(t.bundle, "rootfs")); err != nil {
		return nil, coded(err)
	}
	s.mu.Lock()
	delete(s.tasks, r.ID)
	s.mu.Unlock()
	a := p.deleted()
	s.events.publish(topicDelete, &events.TaskDelete{ContainerID: r.ID, Pid: a.Pid, ExitStatus: a.ExitStatus, ExitedAt: a.ExitedAt})
	return a, nil
}

func (s *service) drain(ctx context.Context, p *process) {
	p.mu.Lock()
	o := p.stdio
	p.mu.Unlock()
	if o != nil {
		limited, cancel := context.WithTimeout(ctx, deletePatience)
		defer cancel()
		o.drain(limited)
	}
}

func (p *process) deleted() *task.DeleteResponse {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &task.DeleteResponse{Pid: p.pid, ExitStatus: p.exit, ExitedAt: timestamppb.New(p.at)}
}

// Exec notes a process to start beside a container's program.
func (s *service) Exec(_ context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	t, err := s.task(r.ID)
	if err != nil {
		return nil, err
	}
	spec, err := fromJSON[specs.Process](r.Spec, "the process")
	if err == nil {
		spec.Terminal = r.Terminal
		err = bundle.CheckProcess(spec)
	}
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "exec: %v", err)
	}
	p := newProcess(r.ExecID, streams{r.Stdin, r.Stdout, r.Stderr, r.Terminal})
	p.spec = spec
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.ExecID == "" || t.execs[r.ExecID] != nil {
		return nil, status.Errorf(codes.AlreadyExists, "process %q of container %s exists", r.ExecID, r.ID)
	}
	t.execs[r.ExecID] = p
	s.events.publish(topicExecAdded, &events.TaskExecAdded{ContainerID: t.id, ExecID: p.execID})
	return nothing, nil
}

// State tells of a process.
func (s *service) State(_ context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := &task.StateResponse{
		ID: r.ID, Bundle: t.bundle, Pid: p.pid, Status: p.status, ExecID: r.ExecID,
		Stdin: p.streams.Stdin, Stdout: p.streams.Stdout, Stderr: p.streams.Stderr, Terminal: p.streams.Terminal,
	}
	if p.status == taskapi.Status_STOPPED {
		a.ExitStatus, a.ExitedAt = p.exit, timestamppb.New(p.at)
		return a, nil
	}
	if p.status == taskapi.Status_RUNNING {
		if c, err := t.rt.Open(r.ID); err == nil && c.Status() == container.Paused {
			a.Status = taskapi.Status_PAUSED
		}
	}
	return a, nil
}

// Wait waits for a process's end.
func (s *service) Wait(ctx context.Context, r *task.WaitRequest) (*task.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return &task.WaitResponse{ExitStatus: p.exit, ExitedAt: timestamppb.New(p.at)}, nil
}

// Kill sends a signal to a process, or to all of a container's.
func (s *service) Kill(ctx context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	t, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p.hasEnded() {
		return nil, notFound("process already finished")
	}
	if r.ExecID == "" {
		c, err := t.rt.Open(r.ID)
		if err == nil {
			err = c.Signal(ctx, unix.Signal(r.Signal), r.All)
		}
		return nothing, coded(err)
	}
	p.mu.Lock()
	e := p.exec
	p.mu.Unlock()
	if e == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "process %s of container %s has not been started", r.ExecID, r.ID)
	}
	return nothing, coded(e.Signal(ctx, unix.Signal(r.Signal)))
}

// with does something with a container.
func (s *service) with(id string, f func(*container.Container) error) (*emptypb.Empty, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, err
	}
	c, err := t.rt.Open(id)
	if err == nil {
		err = f(c)
	}
	if err != nil {
		return nil, coded(err)
	}
	return nothing, nil
}

// Pause stops all of a container's processes.
func (s *service) Pause(ctx context.Context, r *task.PauseRequest) (*emptypb.Empty, error) {
	a, err := s.with(r.ID, func(c *container.Container) error { return c.Pause(ctx) })
	if err == nil {
		s.events.publish(topicPaused, &events.TaskPaused{ContainerID: r.ID})
	}
	return a, err
}

// Resume lets them go on.
func (s *service) Resume(ctx context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	a, err := s.with(r.ID, func(c *container.Container) error { return c.Resume(ctx) })
	if err == nil {
		s.events.publish(topicResumed, &events.TaskResumed{ContainerID: r.ID})
	}
	return a, err
}

// Checkpoint is not to be had yet.
func (s *service) Checkpoint(context.Context, *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.Unimplemented, "checkpoint is not implemented")
}

// ResizePty sets the size of a process's terminal.
func (s *service) ResizePty(ctx context.Context, r *task.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	rows, columns := uint16(r.Height), uint16(r.Width)
	p.mu.Lock()
	o, e := p.stdio, p.exec
	p.size = [2]uint16{rows, columns}
	p.mu.Unlock()
	if o == nil || p.hasEnded() {
		return nothing, nil // it will begin with that size, or does not need one
	}
	if err := o.resize(rows, columns); err != nil {
		return nil, coded(err)
	}
	if e != nil { // the sandbox hears only of its own terminal's changes
		return nothing, coded(e.Resize(ctx, rows, columns))
	}
	return nothing, nil
}

// CloseIO ends a process's standard input.
func (s *service) CloseIO(_ context.Context, r *task.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	o := p.stdio
	p.mu.Unlock()
	if r.Stdin && o != nil {
		o.closeInput()
	}
	return nothing, nil
}

// Update changes limits.
func (s *service) Update(ctx context.Context, r *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	wanted, err := fromJSON[specs.LinuxResources](r.Resources, "the resources")
	if err == nil {
		err = bundle.CheckResources(wanted)
	}
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "update: %v", err)
	}
	return s.with(r.ID, func(c *container.Container) error {
		// What is not named stays as it is.
		return c.Update(ctx, func(now *specs.LinuxResources) error { return json.Unmarshal(r.Resources.Value, now) })
	})
}

// Stats tells what a container uses.
func (s *service) Stats(ctx context.Context, r *task.StatsRequest) (*task.StatsResponse, error) {
	a := &task.StatsResponse{}
	_, err := s.with(r.ID, func(c *container.Container) error {
		used, err := c.Stats(ctx)
		if err != nil {
			return err
		}
		a.Stats, err = anypb.New(metrics(used, cgroups.IsCgroup2UnifiedMode()))
		if err == nil {
			a.Stats.TypeUrl = typeName(a.Stats) // as containerd's typeurl has it
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Pids are a container's processes on the host.
func (s *service) Pids(_ context.Context, r *task.PidsRequest) (*task.PidsResponse, error) {
	a := &task.PidsResponse{}
	_, err := s.with(r.ID, func(c *container.Container) error {
		pids, err := c.HostPIDs()
		for _, pid := range pids {
			a.Processes = append(a.Processes, &taskapi.ProcessInfo{Pid: uint32(pid)})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Connect tells containerd, which has been away, who we are.
func (s *service) Connect(_ context.Context, r *task.ConnectRequest) (*task.ConnectResponse, error) {
	a := &task.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: s.program.Version}
	if _, p, err := s.process(r.ID, ""); err == nil {
		a.TaskPid = p.pid
	}
	return a, nil
}

// Shutdown ends the shim, unless it has containers.
func (s *service) Shutdown(context.Context, *task.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tasks) == 0 {
		s.shutdown.Do(func() { close(s.done) })
	}
	return nothing, nil
}
