package boot

import (
	"errors"
	"math"
	"runtime"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
	"bulkhead/sentry/platform/auto"
)

func (s *sandbox) choosePlatform() (err error) {
	c := auto.Config{Name: s.config.Platform, KVM: -1}
	if s.config.Files.KVM != 0 {
		c.KVM = s.config.Files.KVM
	} else if why := s.config.Files.NoKVM; why != "" {
		c.NoKVM = errors.New(why)
	}
	var report auto.Report
	if s.plat, report, err = auto.New(c); err != nil {
		return err
	}
	s.why = report.Reason
	s.log.Info("platform", "name", report.Chosen, "reason", report.Reason, "measured", report.Costs)
	return nil
}

// cpus is how many programs inside count.
func cpus(l agent.Limits) int {
	n := runtime.NumCPU()
	if l.CPUs > 0 {
		n = min(n, int(math.Ceil(l.CPUs)))
	}
	if l.CPUSet > 0 {
		n = min(n, l.CPUSet)
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
