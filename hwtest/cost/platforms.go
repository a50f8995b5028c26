package cost

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform/auto"
)

// rows of a platform, as auto measures them.
var rows = []struct {
	id, name, note string
	of             func(auto.Cost) time.Duration
}{
	{"trapped", "system call, trapped", "a program's syscall instruction to the sentry's goroutine and back", func(c auto.Cost) time.Duration { return c.Trapped }},
	{"patched", "system call, patched site", "the same once its site is a jump to the stub", func(c auto.Cost) time.Duration { return c.Patched }},
	{"fault", "page fault", "a fault, with the page mapped", func(c auto.Cost) time.Duration { return c.Fault }},
}

// platforms is what the sentry itself would find here: `bulkhead` chooses by the
// same measurement (sentry/platform/auto), taken a few times for a spread.
func platforms(h Host) []Cost {
	const times = 5
	samples := map[string][]float64{}
	reasons := map[string]error{}
	for n, start := 0, time.Now(); n == 0 || n < times && time.Since(start) < 3*h.Budget; n++ {
		report, err := guarded(func() (auto.Report, error) { return measurePlatforms(h) })
		if err != nil {
			reasons["kvm"], reasons["ptrace"] = err, err
			break
		}
		for _, c := range report.Costs {
			if c.Err != nil {
				reasons[c.Name] = c.Err
				continue
			}
			for _, r := range rows {
				id := c.Name + "-" + r.id
				samples[id] = append(samples[id], float64(r.of(c).Nanoseconds()))
			}
		}
	}
	var costs []Cost
	for _, platform := range []string{"kvm", "ptrace"} {
		for _, r := range rows {
			if platform == "ptrace" && r.id == "patched" {
				continue // it patches nothing
			}
			c := Cost{ID: "sentry-" + platform + "-" + r.id, Group: Sentry, Name: platform + ": " + r.name, Note: r.note}
			c.fill(samples[platform+"-"+r.id], reasons[platform])
			costs = append(costs, c)
		}
	}
	return costs
}

func measurePlatforms(h Host) (auto.Report, error) {
	config := auto.Config{Name: "auto", KVM: -1, NoKVM: h.NoKVM}
	if h.KVM != nil {
		fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return auto.Report{}, fmt.Errorf("open /dev/kvm: %w", err)
		}
		config.KVM = fd // the platform's from here on
	}
	p, report, err := auto.New(config)
	if err != nil {
		return auto.Report{}, err
	}
	return report, p.Close()
}
