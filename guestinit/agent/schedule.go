package agent

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/spec"
)

// policies are those of sched(7) that a container may ask for; the runtime refuses others.
var policies = map[specs.LinuxSchedulerPolicy]uint32{specs.SchedOther: unix.SCHED_NORMAL, specs.SchedBatch: unix.SCHED_BATCH, specs.SchedIdle: unix.SCHED_IDLE}

// ioClasses are ioprio_set(2)'s, as are the two below.
var ioClasses = map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

const (
	whoProcess = 1
	classShift = 13
)

const perLinux32 = 8 // include/uapi/linux/personality.h

// schedule gives the thread that will execute the program what decides where and when it
// runs, and its execution domain, while it still may. An affinity is exec's alone
// (config.md, "Linux Process").
func (st *stage) schedule() error {
	p := st.Process
	if s := p.Scheduler; s != nil {
		policy, ok := policies[s.Policy]
		if !ok {
			return fmt.Errorf("process.scheduler.policy %q: %w", s.Policy, unix.EINVAL)
		}
		if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice}, 0); err != nil {
			return fmt.Errorf("process.scheduler: %w", err)
		}
	}
	if a := p.ExecCPUAffinity; a != nil && st.Join && a.Final != "" {
		cpus, err := spec.ParseCPUs(a.Final)
		var set unix.CPUSet
		for _, n := range cpus {
			set.Set(n)
		}
		if err == nil {
			err = unix.SchedSetaffinity(0, &set)
		}
		if err != nil {
			return fmt.Errorf("process.execCPUAffinity.final %q: %w", a.Final, err)
		}
	}
	if io := p.IOPriority; io != nil {
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(ioClasses[io.Class]<<classShift|io.Priority)); errno != 0 {
			return fmt.Errorf("process.ioPriority: %w", errno)
		}
	}
	if st.Domain == specs.PerLinux32 {
		if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, perLinux32, 0, 0); errno != 0 {
			return fmt.Errorf("linux.personality: %w", errno)
		}
	}
	return nil
}
