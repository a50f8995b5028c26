package sandbox

import (
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"bulkhead/jail/seccomp"
	"bulkhead/kvm"
	"bulkhead/runtime/agent"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/virtio/fs/remote"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/ram"

	"golang.org/x/sys/unix"
)

// A template is a guest that has booted and called, and knows nothing of any container:
// its init has no share, no time and no random numbers that count (guestinit/agent,
// begin). Whoever goes on from it shares its pages until they are written to, and its
// kernel's layout, which an attacker inside might learn elsewhere.

// windowSize has room for 15 requests at one time; it is as little as ram gives.
const windowSize = ram.Least

// openTemplate is nil where the guest has to boot.
func (s *sandbox) openTemplate() *machine.Snapshot {
	if s.config.Files.Template == 0 || len(s.config.Devices) > templateNetworks {
		return nil
	}
	t, err := machine.SnapshotFrom(os.NewFile(uintptr(s.config.Files.Template), "template"))
	if err == nil && (t.CPUs() != s.size.cpus || t.MemorySize() != s.size.memory) {
		t.Close()
		err = fmt.Errorf("it has %d CPUs and %d MiB of memory, want %d and %d", t.CPUs(), t.MemorySize()>>20, s.size.cpus, s.size.memory>>20)
	}
	if err != nil {
		s.log.Warn("the guest boots: its template is no good", "err", err)
		s.template = agent.TemplateUnfit
		return nil
	}
	return t
}

// assembleCopy makes a machine that goes on where the template's stood. Its memory is
// private to this process, and the share's is reached through a window.
func (s *sandbox) assembleCopy(sys *kvm.System, t *machine.Snapshot) error {
	s.template = agent.TemplateCopied
	defer t.Close()
	fmt.Fprintln(s.console, "[this guest is a copy of one that had booted, and what that one's kernel said is not here; --template=off boots]")
	mem, err := t.Memory()
	if err != nil {
		return err
	}
	window, err := ram.New(windowSize, ram.Memfd)
	if err != nil {
		return err
	}
	if _, err = s.reachShare(window); err != nil {
		return err
	}
	server, err := remote.NewCopying(s.share, window.Bytes())
	if err != nil {
		return err
	}
	if err := s.assembleOn(sys, mem, server); err != nil {
		return err
	}
	if err := s.vm.RestoreAnew(t); err != nil {
		return err
	}
	s.presentDisks()
	return nil
}

// keep writes the template, if the runtime wants one, but for what keepRest does. That there is
// none is no reason for this container not to run.
func (s *sandbox) keep() error {
	if s.config.Files.NewTemplate == 0 {
		return nil
	}
	defer s.presentDisks()
	s.template = agent.TemplateNotKept
	if len(s.config.Devices) > templateNetworks {
		return nil
	}
	var err error
	if s.keeping, err = s.vm.KeepTo(os.NewFile(uintptr(s.config.Files.NewTemplate), "template")); err != nil {
		s.log.Warn("no template of the guest could be kept", "err", err)
	}
	return s.machine.Resume()
}

// keepRest makes the template whole, once this container has shown which of the guest's pages
// a start writes to. What these say is of no container: their numbers are kept alone.
func (s *sandbox) keepRest() error {
	if s.keeping == nil {
		return nil
	}
	if err := s.keeping.Finish(); err != nil {
		s.log.Warn("no template of the guest could be kept", "err", err)
		return nil
	}
	s.template = agent.TemplateKept
	return nil
}

// keepCalls are those of keep.
var keepCalls = []seccomp.Row{
	{NR: unix.SYS_LSEEK, Name: "lseek", Why: "template: memory that was touched"},
	{NR: unix.SYS_FTRUNCATE, Name: "ftruncate", Why: "template"},
	{NR: unix.SYS_PWRITE64, Name: "pwrite64", Why: "template"},
}

// begin makes the guest this one.
func (s *sandbox) begin() error {
	const enough = 32 // bytes, as the kernel's generator has of state
	entropy := make([]byte, enough)
	rand.Read(entropy) // which does not fail
	ctx, cancel := s.call()
	defer cancel()
	if _, err := s.guest.Begin(ctx, &rpc.BeginRequest{Time: time.Now().UnixNano(), Entropy: entropy, Interfaces: s.interfaces(), Disks: uint32(len(s.disks))}); err != nil {
		return s.why(rpc.Refused(err))
	}
	s.begun = true
	return nil
}
