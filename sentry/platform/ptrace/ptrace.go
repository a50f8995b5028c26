// Package ptrace runs application code in stub processes, stopped by
// PTRACE_SYSEMU at every system call. It needs no /dev/kvm and no privilege.
//
// An address space is a stub process: a task with nothing mapped but one page
// of ours, at stubAt, above platform.TaskSize. The page is read-only and holds
// a few instructions: "syscall; int3", by which a tracer makes a stopped task map
// memory (an injected call), the same for clone, and a loop around pause(2), in
// which tasks sleep that nobody traces. The file table is shared with the Sentry (CLONE_FILES),
// so that every descriptor can be mapped.
//
// A platform.Thread is a goroutine locked to an OS thread, which traces one task
// (a tracee) in each address space that it has entered. The process's leader
// runs no application code: it sleeps untraced, and whoever needs a new task in
// the process, or a change of its mappings while no tracee of his own is there,
// seizes it for a moment. So nothing is ever handed to another OS thread: a
// wake-up across CPUs costs 45 µs on some hosts, a whole stop of a tracee on
// the tracer's own CPU 5. For the same reason thread and tracee are pinned to
// one CPU (cpu.go).
//
// # Why the application can make no host system call
//
//   - It only ever runs resumed by PTRACE_SYSEMU, which skips every call by any
//     entry (syscall, int 0x80, sysenter; the 32-bit ones become SIGSEGV).
//   - Plain PTRACE_CONT and detaching happen with RIP in the stub page, which no
//     application thread can change: it is read-only to it, and the Sentry refuses
//     to map over it.
//   - A seccomp filter in all stubs kills on any call not made from the page. The
//     vsyscall page, which SYSEMU does not see, is turned into a call by it.
//   - All signals but one are blocked in stubs and that one is ignored; traced
//     tasks never get any. PTRACE_O_EXITKILL and PR_SET_PDEATHSIG end the stubs with
//     the Sentry.
//
// # What a containment must leave us
//
// Make the platform after namespaces, user and capabilities are settled: stubs
// keep the credentials of that moment, and a tracer needs the same. A filter of
// the Sentry's is inherited by stubs made later, and must allow
//
//   - to the Sentry: ptrace, wait4, clone, tgkill, kill, sched_setaffinity, getcpu,
//     sched_yield, nanosleep, process_vm_readv, gettid, rt_sigaction,
//     rt_sigprocmask, memfd_create, ftruncate, mmap, munmap, mprotect;
//   - to the stubs besides: pause, mmap, munmap, mprotect, mremap, clone (with
//     CLONE_PTRACE, CLONE_PARENT, CLONE_THREAD …), prctl (NO_NEW_PRIVS, DUMPABLE,
//     PDEATHSIG, NAME), capset, seccomp, rt_sigaction, rt_sigprocmask, exit.
//
// # Locks
//
// space.mu, then process.mu, then the template's process.mu; Platform.mu and
// Thread.mu are leaves.
package ptrace

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Platform implements platform.Platform.
type Platform struct {
	template *process // an empty stub process, from which others are forked
	xstate   xstate
	cpus     cpus
	maxMaps  int // regions that one space may have
	counts   counts

	closing chan struct{} // ends keep
	kept    sync.WaitGroup
	reapers sync.WaitGroup

	mu     sync.Mutex
	all    map[*process]struct{} // without the template
	spare  []*process            // those of them that are empty and wait for use
	closed bool
}

// New starts the platform: one stub process, asleep.
func New() (*Platform, error) {
	p := &Platform{closing: make(chan struct{}), all: map[*process]struct{}{}, maxMaps: mapLimit()}
	if err := p.cpus.init(); err != nil {
		return nil, fmt.Errorf("ptrace: affinity of the Sentry: %w", err)
	}
	// A thread in Run or asleep keeps its P until sysmon takes it, 20 µs to 10 ms
	// later; with too few of them who returns finds none, and waits for another OS
	// thread to hand him one. (fork and wait: 20 % faster with six more.)
	if n := len(p.cpus.ids) + 6; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	if err := quietStops(); err != nil {
		return nil, fmt.Errorf("ptrace: SA_NOCLDSTOP: %w", err)
	}
	started := make(chan error)
	p.kept.Go(func() { p.keep(started) })
	if err := <-started; err != nil {
		p.kept.Wait()
		return nil, err
	}
	return p, nil
}

// keep is the parent of all stubs: PR_SET_PDEATHSIG means the OS thread that
// forked, so this one must live as long as they do.
func (p *Platform) keep(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	p.template, err = p.makeTemplate()
	started <- err
	if err == nil {
		<-p.closing
	}
}

// mapLimit is how many mappings a process may have, less some for the kernel's
// splits on the way and for the stub page.
func mapLimit() int {
	const fallback = 65530 // DEFAULT_MAX_MAP_COUNT, include/linux/mm.h
	n := fallback
	if b, err := os.ReadFile("/proc/sys/vm/max_map_count"); err == nil {
		if v, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			n = v
		}
	}
	return min(n-16, 1<<20)
}

// Name implements platform.Platform.
func (*Platform) Name() string { return "ptrace" }

// Private implements platform.Platform: stubs map the Sentry's memory, so it is a file.
func (*Platform) Private() bool { return false }

// AddMemory implements platform.Platform. Stubs map by descriptor.
func (*Platform) AddMemory([]byte) error { return nil }

// Close implements platform.Platform. Processes end before the OS thread that
// is their parent, and the template last, since it has no other owner.
func (p *Platform) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	all := slices.Collect(maps.Keys(p.all))
	p.spare = nil
	p.mu.Unlock()
	p.cpus.stop()
	var errs []error
	for _, pr := range append(all, p.template) {
		errs = append(errs, pr.kill())
	}
	p.reapers.Wait()
	close(p.closing)
	p.kept.Wait()
	return errors.Join(errs...)
}
