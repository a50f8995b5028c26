package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"bulkhead/runtime/container"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

// event and what it holds have runc's shape (types/events.go there).
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

type stats struct {
	CPU     cpuStats            `json:"cpu"`
	CPUSet  cgroups.CPUSetStats `json:"cpuset"`
	Memory  memoryStats         `json:"memory"`
	Pids    pidsStats           `json:"pids"`
	Blkio   blkioStats          `json:"blkio"`
	Hugetlb struct{}            `json:"hugetlb"`
	RDT     struct{}            `json:"intel_rdt"`
	Network []networkInterface  `json:"network_interfaces"`
	// Sandbox is ours: the same from inside, without the Sentry's own share.
	Sandbox any `json:"sandbox,omitempty"`
}

// networkInterface has runc's names, which has no tags there. Errors of frames there are none.
type networkInterface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

type cpuStats struct {
	Usage struct {
		Total  uint64   `json:"total,omitempty"`
		Percpu []uint64 `json:"percpu,omitempty"`
		Kernel uint64   `json:"kernel"`
		User   uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type memoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     memoryEntry       `json:"usage"`
	Swap      memoryEntry       `json:"swap"`
	Kernel    memoryEntry       `json:"kernel"`
	KernelTCP memoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
}

type pidsStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

type blkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type blkioStats struct {
	Bytes    []blkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced []blkioEntry `json:"ioServicedRecursive,omitempty"`
}

func (a *app) events() *cobra.Command {
	var (
		once     bool
		interval time.Duration
	)
	c := &cobra.Command{
		Use:   "events [flags] ID",
		Short: "Print what a container uses, and when it runs out of memory",
		Long: `Print events of a container as JSON, one a line, until it ends: "stats" at the
interval, "oom" when a process in it was killed for want of memory.`,
		Args:              exactly("ID"),
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			if interval <= 0 {
				return errors.New("events: --interval is not above 0")
			}
			c, err := a.rt.Open(args[0])
			if err == nil {
				err = watch(cmd.Context(), c, once, interval)
			}
			return on(args[0], err)
		},
	}
	c.Flags().BoolVar(&once, "stats", false, "print the statistics once")
	c.Flags().DurationVar(&interval, "interval", 5*time.Second, "time between two statistics")
	return c
}

func watch(ctx context.Context, c *container.Container, once bool, interval time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := json.NewEncoder(os.Stdout)
	var kills <-chan struct{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for first := true; ; first = false {
		s, err := c.Stats(ctx)
		if errors.Is(err, container.ErrNotRunning) && !first {
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.Encode(event{"stats", c.State.ID, convert(s)}); err != nil || once {
			return err
		}
		if first {
			var before *uint64
			if s.Inside != nil {
				before = &s.Inside.OOMKills
			}
			kills = killed(ctx, c, before)
		}
		for waiting := true; waiting; {
			select {
			case _, more := <-kills:
				if !more { // the container has ended, or its sandbox does not tell
					kills = nil
					waiting = c.Status() != specs.StateStopped
					break
				}
				if err := out.Encode(event{"oom", c.State.ID, nil}); err != nil {
					return err
				}
			case <-tick.C:
				waiting = false
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// killed has a value when more than before of the container's programs have been killed
// for want of memory (nil: than have been now), and is closed at the container's end.
func killed(ctx context.Context, c *container.Container, before *uint64) <-chan struct{} {
	kills := make(chan struct{})
	go func() {
		defer close(kills)
		w, err := c.WatchOOM(ctx) // a frozen sandbox answers when it goes on
		if err != nil {
			return
		}
		defer w.Close()
		for more := before != nil && w.Count() > *before; ; {
			if more {
				select {
				case kills <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
			if _, more = w.Next(); !more {
				return
			}
		}
	}()
	return kills
}

// convert takes time and pressure from the host, who pays for the Sentry, too;
// numbers of processes and limits from inside, where they are the container's.
func convert(s *container.Stats) *stats {
	r := &stats{Network: []networkInterface{}}
	for _, i := range s.Network {
		r.Network = append(r.Network, networkInterface{Name: i.Name, RxBytes: i.RxBytes, RxPackets: i.RxPackets, RxDropped: i.RxDropped,
			TxBytes: i.TxBytes, TxPackets: i.TxPackets, TxDropped: i.TxDropped})
	}
	if h := s.Host; h != nil {
		c := h.CpuStats
		r.CPU.Usage.Total, r.CPU.Usage.Percpu = c.CpuUsage.TotalUsage, c.CpuUsage.PercpuUsage
		r.CPU.Usage.Kernel, r.CPU.Usage.User = c.CpuUsage.UsageInKernelmode, c.CpuUsage.UsageInUsermode
		r.CPU.Throttling.Periods = c.ThrottlingData.Periods
		r.CPU.Throttling.ThrottledPeriods = c.ThrottlingData.ThrottledPeriods
		r.CPU.Throttling.ThrottledTime = c.ThrottlingData.ThrottledTime
		r.CPUSet = h.CPUSetStats
		m := h.MemoryStats
		r.Memory = memoryStats{
			Cache: m.Cache, Usage: entry(m.Usage), Swap: entry(m.SwapUsage),
			Kernel: entry(m.KernelUsage), KernelTCP: entry(m.KernelTCPUsage), Raw: m.Stats,
		}
		r.Pids = pidsStats{h.PidsStats.Current, h.PidsStats.Limit}
		r.Blkio.Bytes = entries(h.BlkioStats.IoServiceBytesRecursive)
		r.Blkio.Serviced = entries(h.BlkioStats.IoServicedRecursive)
	}
	if in := s.Inside; in != nil {
		r.Sandbox = in
		r.Pids = pidsStats{in.Processes, in.PidsLimit}
		if s.Host == nil {
			r.Memory.Usage = memoryEntry{Limit: in.MemoryLimit, Usage: in.Memory, Max: in.MemoryMax}
			r.Memory.Cache = in.Cache
			r.CPU.Usage.User, r.CPU.Usage.Kernel = uint64(in.CPUUser), uint64(in.CPUSystem)
			r.CPU.Usage.Total = r.CPU.Usage.User + r.CPU.Usage.Kernel
		} else if in.MemoryLimit > 0 {
			r.Memory.Usage.Limit = in.MemoryLimit
		}
	}
	return r
}

func entry(m cgroups.MemoryData) memoryEntry {
	return memoryEntry{m.Limit, m.Usage, m.MaxUsage, m.Failcnt}
}

func entries(list []cgroups.BlkioStatEntry) (out []blkioEntry) {
	for _, e := range list {
		out = append(out, blkioEntry(e))
	}
	return out
}
