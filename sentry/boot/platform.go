package boot

import (
	"fmt"
	"math"
	"runtime"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform/kvm"
	"bulkhead/sentry/platform/ptrace"
)

func (s *sandbox) choosePlatform() (err error) {
	switch s.config.Platform {
	case "kvm":
		if s.config.Files.KVM == 0 {
			return fmt.Errorf("--platform=kvm: the host has no usable /dev/kvm")
		}
		s.plat, err = kvm.New(s.config.Files.KVM)
		s.why = "asked for"
	case "ptrace", "auto", "":
		s.plat, err = ptrace.New()
		s.why = "asked for"
	default:
		err = fmt.Errorf("--platform=%s: want auto, kvm or ptrace", s.config.Platform)
	}
	return err
}

// cpus is how many programs inside count.
func cpus(limit float64) int {
	n := runtime.NumCPU()
	if limit > 0 {
		n = min(n, int(math.Ceil(limit)))
	}
	return max(n, 1)
}

// memoryTotal is what the container sees as its memory, in bytes.
func memoryTotal(limit int64) uint64 {
	var i unix.Sysinfo_t
	unix.Sysinfo(&i)
	total := i.Totalram * uint64(i.Unit)
	if limit > 0 {
		total = min(total, uint64(limit))
	}
	return total
}
