package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/jail/profile"
	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/runtime/spec"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/share"
)

// container is one of the machine's.
type container struct {
	name   string // in the guest
	init   *process
	made   int64            // its limit of memory as it was made with, 0 for none
	limits agent.Limits     // the sandbox's mu guards it, and what follows
	procs  map[int]*process // that Exec started, until they have ended
	begun  bool             // its program runs, or has
	starts sync.Mutex       // held by a Start under way, before the sandbox's
	frozen bool             // by itself, as one that is not the first
	kills  agent.Kills      // locks itself
}

// firstName is the name in the guest of the container that the machine began with.
const firstName = "init"

// find gives the container of a name; "" is the first.
func (s *sandbox) find(name string) (*container, error) {
	if name == "" || name == s.config.ID {
		return s.first, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[name]
	if c == nil || c.init == nil {
		return nil, fmt.Errorf("container %s is not in this machine: %w", name, unix.ESRCH)
	}
	return c, nil
}

// create has the guest make the first container, up to its program's first instruction.
func (s *sandbox) create() error {
	if n := len(s.config.Files.Preserve); n > 0 {
		return fmt.Errorf("%d preserved descriptors cannot be handed into a machine", n)
	}
	var files []*os.File
	for fd := range 3 {
		if fd > 0 && s.config.Terminal {
			break
		}
		// Another number than 1 or 2, whose writes Go makes SIGPIPEs of.
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
		files = append(files, os.NewFile(uintptr(own), "stdio"))
	}
	ctx, cancel := s.call()
	defer cancel()
	s.first = &container{name: firstName, made: s.config.Limits.Memory, limits: s.config.Limits, procs: map[int]*process{}}
	err := s.make(ctx, s.first, &agent.AddRequest{
		Spec: s.config.Spec, GoferMounts: s.config.GoferMounts, Overlay: s.config.Overlay, Limits: s.config.Limits, Cgroup: s.config.Cgroup,
		Console: s.config.Console, OrdinaryInit: s.config.OrdinaryInit,
	}, "", files, s.describeDisks())
	if err != nil {
		return s.why(err)
	}
	go s.await()
	if s.config.Terminal {
		go s.followSize()
	}
	return nil
}

// Add implements agent.Podding, as does Remove.
func (s *sandbox) Add(ctx context.Context, r *agent.AddRequest, files []*os.File) error {
	c := &container{name: "pod-" + r.Container, made: r.Limits.Memory, limits: r.Limits, procs: map[int]*process{}}
	err := s.register(r, c, len(files))
	if err != nil {
		closeAll(files)
		return err
	}
	streams := files[:len(files)-len(r.Disks)]
	disks, err := s.insertDisks(c, r.Disks, files[len(streams):])
	if err != nil {
		closeAll(streams)
	} else if err = s.make(whole(ctx), c, r, path.Join(share.Pods, r.Container), streams, disks); err != nil {
		s.ejectDisks(c)
	}
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.containers, r.Container)
		return err
	}
	if err := ctx.Err(); err != nil { // whoever asked has been killed: nobody knows of it
		_ = s.Remove(whole(ctx), r.Container)
		return err
	}
	s.log.Info("container added", "container", r.Container)
	return nil
}

func (s *sandbox) register(r *agent.AddRequest, c *container, files int) error {
	want := 3
	if r.Spec.Process.Terminal {
		want = 1
	}
	if want += len(r.Disks); files != want {
		return fmt.Errorf("%d descriptors for a container, want %d: %w", files, want, unix.EINVAL)
	}
	if l := r.Limits.Memory; l > 0 && uint64(l) > s.size.memory {
		return fmt.Errorf("the machine has %d MiB of memory and cannot give the container %d: %w", s.size.memory>>20, l>>20, unix.EINVAL)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Container == s.config.ID || s.containers[r.Container] != nil {
		return fmt.Errorf("container %s: %w", r.Container, unix.EEXIST)
	}
	s.containers[r.Container] = c
	return nil
}

// make has the guest make c, whose files are in a directory of the share or on the disks. It
// takes the files over, which are standard streams.
func (s *sandbox) make(ctx context.Context, c *container, r *agent.AddRequest, dir string, files []*os.File, disks []*rpc.Disk) error {
	inside := spec.Of(&r.Spec.Spec)
	if size := r.Console; size != nil && inside.Process.ConsoleSize == nil {
		p := *inside.Process
		p.ConsoleSize = &specs.Box{Height: uint(size.Rows), Width: uint(size.Columns)}
		inside.Process = &p
	}
	inside.Hooks = nil // the host's business
	filter, err := s.filter(inside.Linux.Seccomp)
	if err != nil {
		closeAll(files)
		return err
	}
	linux := *inside.Linux
	linux.Seccomp = nil // that is in the filter
	// The host's, whose numbers are others' in the guest; those that it is to have are disks.
	linux.Devices = slices.DeleteFunc(slices.Clone(linux.Devices), func(d specs.LinuxDevice) bool { return d.Type == "b" })
	inside.Linux = &linux
	text, err := json.Marshal(inside)
	if err != nil {
		closeAll(files)
		return err
	}
	p, err := s.lines.newProcess(files, inside.Process.Terminal)
	if err != nil {
		closeAll(files)
		return err
	}
	binds := map[uint32]string{}
	for i, m := range r.GoferMounts {
		binds[uint32(m)] = path.Join(dir, share.MountName(i))
	}
	_, err = s.guest.Create(ctx, &rpc.CreateRequest{
		Container: c.name, Spec: text, Root: path.Join(dir, share.Root), Binds: binds, Overlay: r.Overlay.Kind == "memory" || r.Overlay.Kind == "dir",
		Streams: p.names(), OrdinaryInit: r.OrdinaryInit, Limits: limits(r.Limits), Filter: filter, Share: r.Share, Disks: disks,
		Cgroup: s.cgroup(r.Cgroup),
	})
	if err != nil {
		p.abandon(s.lines)
		return s.why(rpc.Refused(err))
	}
	if err := p.begin(s.lines); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.init = p
	go s.followKills(c)
	return nil
}

// followKills hears of programs that the guest's kernel kills, until the container ends.
func (s *sandbox) followKills(c *container) {
	for above := uint64(0); ; {
		a, err := s.guest.OOMKills(context.Background(), &rpc.OOMKillsRequest{Container: c.name, Above: above})
		if err != nil || a.Kills <= above {
			return // it has ended, and what came last Wait tells
		}
		above = a.Kills
		c.kills.Report(above)
	}
}

// filter compiles a container's seccomp profile, if it has one.
func (s *sandbox) filter(p *specs.LinuxSeccomp) (*rpc.Filter, error) {
	if p == nil {
		return nil, nil
	}
	prog, err := profile.Compile(p, s.number)
	if err != nil {
		return nil, err
	}
	return &rpc.Filter{Program: prog.Code, Flags: prog.Flags}, nil
}

func (s *sandbox) Remove(ctx context.Context, name string) error {
	c, err := s.find(name)
	if err != nil {
		return err
	}
	if c == s.first {
		return fmt.Errorf("container %s ends with its machine: %w", name, unix.EBUSY)
	}
	if _, err := s.guest.Delete(ctx, &rpc.DeleteRequest{Container: c.name}); err != nil {
		return s.why(rpc.Refused(err))
	}
	s.ejectDisks(c)
	c.init.stop()
	c.kills.End()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range c.procs {
		p.stop()
	}
	delete(s.containers, name)
	s.inflateLocked()
	s.log.Info("container removed", "container", name)
	return nil
}

// await waits for the first container's end.
func (s *sandbox) await() {
	w, err := s.guest.Wait(context.Background(), &rpc.WaitRequest{Container: firstName})
	if err != nil {
		if !s.machine.Ended() {
			s.log.Error("guest does not tell of init's end", "err", rpc.Refused(err))
			s.machine.End(machine.Ending{Reason: machine.Stopped})
		}
		return
	}
	s.ended <- w
}
