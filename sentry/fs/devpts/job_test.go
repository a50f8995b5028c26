package devpts

import (
	"encoding/binary"
	"io"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// still is a platform that runs nothing: its tasks only have pending signals.
type still struct{ platform.Platform }

func (still) Private() bool                                   { return true }
func (still) AddMemory([]byte) error                          { return nil }
func (still) NewAddressSpace() (platform.AddressSpace, error) { return stillSpace{}, nil }

type stillSpace struct{ platform.AddressSpace }

func (stillSpace) Map(platform.Addr, platform.Segment, platform.Access) error { return nil }
func (stillSpace) Protect(platform.Addr, uint64, platform.Access) error       { return nil }
func (stillSpace) Unmap(platform.Addr, uint64) error                          { return nil }
func (stillSpace) Release()                                                   {}

// jobs is a kernel with an init that leads a session, and a terminal.
type jobs struct {
	*testing.T
	k     *kernel.Kernel
	init  *kernel.Task
	fs    *FileSystem
	m     *master
	param memory.Addr // of ioctls, in memory that all share
}

func newJobs(t *testing.T) *jobs {
	arena, err := memory.NewArena(still{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { arena.Close() })
	j := &jobs{T: t}
	j.k, err = kernel.New(kernel.Config{Platform: still{}, Arena: arena, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	j.init = j.spawn()
	j.param, err = j.init.MM().Map(memory.MapRequest{Length: memory.PageSize, Prot: platform.Read | platform.Write})
	if err != nil {
		t.Fatal(err)
	}
	j.fs = New(Options{Mode: 0o620, Max: 4}, vfs.SentryContext().Now())
	m, err := j.fs.OpenMaster(j.init, unix.O_RDWR, vfs.Path{})
	if err != nil {
		t.Fatal(err)
	}
	j.m = m.(*master)
	j.m.t.locked = false
	return j
}

// spawn makes a process with a session of its own.
func (j *jobs) spawn() *kernel.Task {
	j.Helper()
	mm, err := memory.NewSpace(j.arena(), still{})
	if err != nil {
		j.Fatal(err)
	}
	ns := vfs.NewNamespace(tmpfs.New(nil, tmpfs.Options{Mode: 0o755}), vfs.MountOptions{})
	t, err := j.k.Spawn(kernel.NewProcess{FS: kernel.NewFSContext(ns, ns.Root(), ns.Root(), 0), FDs: vfs.NewFDTable(), MM: mm,
		Creds: &vfs.Creds{}, Limits: kernel.DefaultLimits(), Comm: "job"})
	if err != nil {
		j.Fatal(err)
	}
	return t
}

func (j *jobs) arena() *memory.Arena { return j.k.Arena }

func (j *jobs) open(t *kernel.Task, flags int) *slave {
	j.Helper()
	f, err := j.m.t.Open(t, vfs.Path{}, flags)
	if err != nil {
		j.Fatal(err)
	}
	return f.(*slave)
}

// waiting are the signals that wait for t's process.
func waiting(t *kernel.Task) (sigs []unix.Signal) {
	own, shared, _, _, _, _ := t.SignalSets()
	for s := unix.Signal(1); s < 32; s++ {
		if (own | shared).Has(s) {
			sigs = append(sigs, s)
		}
	}
	return sigs
}

func (j *jobs) ioctlInt(t *kernel.Task, f vfs.File, cmd uint32, in int32) (int32, error) {
	j.init.MM().Write(j.param, binary.LittleEndian.AppendUint32(nil, uint32(in)))
	_, err := f.Ioctl(j.init, cmd, uint64(j.param))
	v, _ := j.init.MM().LoadUint32(j.param)
	return int32(v), err
}

func TestOpenAdopts(t *testing.T) {
	j := newJobs(t)
	j.open(j.init, unix.O_RDWR|unix.O_NOCTTY)
	if j.init.Group().Session().Terminal() != nil {
		t.Error("O_NOCTTY made it the controlling terminal")
	}
	if _, err := OpenControlling(j.init, unix.O_RDWR); err != unix.ENXIO {
		t.Errorf("/dev/tty without a terminal: %v, want ENXIO", err)
	}
	j.open(j.init, unix.O_WRONLY)
	if j.init.Group().Session().Terminal() != nil {
		t.Error("who may only write got a controlling terminal")
	}
	s := j.open(j.init, unix.O_RDWR)
	if j.init.Group().Session().Terminal() != kernel.Terminal(j.m.t) {
		t.Fatal("not adopted")
	}
	if id, err := j.ioctlInt(j.init, s, unix.TIOCGPGRP, 0); id != 1 || err != nil {
		t.Errorf("TIOCGPGRP: %d %v, want 1", id, err)
	}
	if id, err := j.ioctlInt(j.init, s, unix.TIOCGSID, 0); id != 1 || err != nil {
		t.Errorf("TIOCGSID: %d %v, want 1", id, err)
	}
	if _, err := OpenControlling(j.init, unix.O_RDWR); err != nil {
		t.Errorf("/dev/tty: %v", err)
	}
}

func TestTakeAndSteal(t *testing.T) {
	j := newJobs(t)
	s := j.open(j.init, unix.O_RDWR|unix.O_NOCTTY)
	if _, err := s.Ioctl(j.init, unix.TIOCSCTTY, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ioctl(j.init, unix.TIOCSCTTY, 0); err != nil {
		t.Errorf("again: %v", err)
	}
	other := j.spawn()
	if _, err := s.Ioctl(other, unix.TIOCSCTTY, 1); err != unix.EPERM {
		t.Errorf("another session's: %v, want EPERM", err)
	}
	other.SetCreds(&vfs.Creds{Effective: 1 << unix.CAP_SYS_ADMIN})
	if _, err := s.Ioctl(other, unix.TIOCSCTTY, 1); err != nil {
		t.Errorf("steal: %v", err)
	}
	if j.init.Group().Session().Terminal() != nil || other.Group().Session().Terminal() != kernel.Terminal(j.m.t) {
		t.Error("the terminal did not change hands")
	}
	if _, err := s.Ioctl(j.init, unix.TIOCNOTTY, 0); err != unix.ENOTTY {
		t.Errorf("TIOCNOTTY without: %v, want ENOTTY", err)
	}
}

func TestForeground(t *testing.T) {
	j := newJobs(t)
	s := j.open(j.init, unix.O_RDWR)
	other := j.spawn()
	for _, row := range []struct {
		id  int32
		err error
	}{{999, unix.ESRCH}, {-1, unix.EINVAL}, {other.PID(), unix.EPERM}, {1, nil}} {
		if _, err := j.ioctlInt(j.init, s, unix.TIOCSPGRP, row.id); err != row.err {
			t.Errorf("TIOCSPGRP %d: %v, want %v", row.id, err, row.err)
		}
	}
	if _, err := s.Ioctl(other, unix.TIOCGPGRP, uint64(j.param)); err != unix.ENOTTY {
		t.Errorf("TIOCGPGRP of another session: %v, want ENOTTY", err)
	}
}

func TestHangup(t *testing.T) {
	j := newJobs(t)
	s := j.open(j.init, unix.O_RDWR)
	j.m.Write(j.init, buffers{[]byte("not read")}, 0)
	// init only gets what it handles.
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGCONT} {
		if _, err := j.init.Action(sig, &kernel.SigAction{Handler: 0x1000}); err != nil {
			t.Fatal(err)
		}
	}
	j.m.Release()
	if got := waiting(j.init); len(got) != 2 || got[0] != unix.SIGHUP || got[1] != unix.SIGCONT {
		t.Errorf("the session's leader has %v pending, want SIGHUP and SIGCONT", got)
	}
	if j.init.Group().Session().Terminal() != nil {
		t.Error("the session still has the terminal")
	}
	if n, err := s.Read(j.init, buffers{make([]byte, 9)}, 0); n != 0 || err != nil {
		t.Errorf("read: %d %v, want the end", n, err)
	}
	if _, err := s.Write(j.init, buffers{[]byte("x")}, 0); err != unix.EIO {
		t.Errorf("write: %v, want EIO", err)
	}
	if _, err := s.Ioctl(j.init, unix.TCGETS, 0); err != unix.EIO {
		t.Errorf("ioctl: %v, want EIO", err)
	}
	if _, err := j.m.t.Open(j.init, vfs.Path{}, unix.O_RDWR); err != unix.EIO {
		t.Errorf("open: %v, want EIO", err)
	}
	s.Release()
	if len(j.fs.terms) != 0 {
		t.Error("the index is still taken")
	}
}

func TestControlCharacters(t *testing.T) {
	j := newJobs(t)
	j.open(j.init, unix.O_RDWR)
	for c, sig := range map[byte]unix.Signal{3: unix.SIGINT, 0x1c: unix.SIGQUIT, 0x1a: unix.SIGTSTP} {
		if _, err := j.init.Action(sig, &kernel.SigAction{Handler: 0x1000}); err != nil {
			t.Fatal(err)
		}
		j.m.Write(j.init, buffers{{c}}, 0)
		if got := waiting(j.init); len(got) != 1 || got[0] != sig {
			t.Errorf("character %d: %v pending, want %v", c, got, sig)
		}
		j.init.TakeSignal(^kernel.SigSet(0))
	}
	if _, err := j.init.Action(unix.SIGWINCH, &kernel.SigAction{Handler: 0x1000}); err != nil {
		t.Fatal(err)
	}
	j.init.MM().Write(j.param, encodeWindow(unix.Winsize{Row: 1, Col: 2}))
	for i, want := range []int{1, 0} { // the same size again is no change
		if _, err := j.m.Ioctl(j.init, unix.TIOCSWINSZ, uint64(j.param)); err != nil {
			t.Fatal(err)
		}
		if got := waiting(j.init); len(got) != want {
			t.Errorf("resize %d: %v pending", i, got)
		}
		j.init.TakeSignal(^kernel.SigSet(0))
	}
}
