package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"bulkhead/runtime/bundle"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

func (a *app) update() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "update [flags] ID",
		Short: "Change a container's limits while it runs",
		Long: `Change a container's limits while it runs. What is not given stays as it is; -1
takes a limit away. Sizes may end in k, m or g.`,
		Example:           "  bulkhead update --memory 512m --pids-limit 100 my-container\n  echo '{\"cpu\":{\"quota\":50000}}' | bulkhead update --resources - my-container",
		Args:              exactly("ID"),
		ValidArgsFunction: a.ids,
	}
	f := c.Flags()
	f.StringVarP(&file, "resources", "r", "", "file with linux.resources as JSON; - is standard input")
	given := map[string]*string{}
	for _, row := range limits {
		given[row.flag] = f.String(row.flag, "", row.help)
	}
	for _, name := range []string{"kernel-memory", "kernel-memory-tcp", "l3-cache-schema", "mem-bw-schema"} {
		f.String(name, "", "for runc's sake: has no meaning here")
		f.MarkHidden(name)
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.rt.Open(args[0])
		if err != nil {
			return on(args[0], err)
		}
		return on(args[0], c.Update(cmd.Context(), func(r *specs.LinuxResources) error {
			if file != "" {
				return merge(r, file)
			}
			for _, row := range limits {
				if cmd.Flags().Changed(row.flag) {
					if err := row.set(r, *given[row.flag]); err != nil {
						return fmt.Errorf("update: --%s=%s: %w", row.flag, *given[row.flag], err)
					}
				}
			}
			return bundle.CheckResources(r)
		}))
	}
	return c
}

// merge lays the file's fields over r.
func merge(r *specs.LinuxResources, file string) error {
	var (
		data []byte
		err  error
	)
	if file == "-" {
		data, err = io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
		file = "standard input"
	} else {
		data, err = os.ReadFile(file)
	}
	if err == nil {
		err = json.Unmarshal(data, r) // fills what is there, keeps what is not
	}
	if err == nil {
		err = bundle.CheckResources(r)
	}
	if err != nil {
		return fmt.Errorf("update: resources from %s: %w", file, err)
	}
	return nil
}

// limits are the flags, named as runc's.
var limits = []struct {
	flag, help string
	set        func(*specs.LinuxResources, string) error
}{
	{"memory", "memory limit", func(r *specs.LinuxResources, s string) error { return parseBytes(&memory(r).Limit, s) }},
	{"memory-reservation", "memory to leave to it under pressure", func(r *specs.LinuxResources, s string) error { return parseBytes(&memory(r).Reservation, s) }},
	{"memory-swap", "limit of memory and swap together", func(r *specs.LinuxResources, s string) error { return parseBytes(&memory(r).Swap, s) }},
	{"cpu-period", "length of a CPU period, in microseconds", func(r *specs.LinuxResources, s string) error { return unsigned(&cpu(r).Period, s) }},
	{"cpu-quota", "CPU time in a period, in microseconds", func(r *specs.LinuxResources, s string) error { return signed(&cpu(r).Quota, s) }},
	{"cpu-burst", "CPU time saved up for a burst, in microseconds", func(r *specs.LinuxResources, s string) error { return unsigned(&cpu(r).Burst, s) }},
	{"cpu-share", "CPU shares, relative to other containers", func(r *specs.LinuxResources, s string) error { return unsigned(&cpu(r).Shares, s) }},
	{"cpu-rt-period", "length of a real-time period, in microseconds", func(r *specs.LinuxResources, s string) error { return unsigned(&cpu(r).RealtimePeriod, s) }},
	{"cpu-rt-runtime", "real-time CPU time in a period, in microseconds", func(r *specs.LinuxResources, s string) error { return signed(&cpu(r).RealtimeRuntime, s) }},
	{"cpuset-cpus", "CPUs to use, as 0-2,4", func(r *specs.LinuxResources, s string) error { cpu(r).Cpus = s; return nil }},
	{"cpuset-mems", "memory nodes to use", func(r *specs.LinuxResources, s string) error { cpu(r).Mems = s; return nil }},
	{"cpu-idle", "1: run only where nobody else wants to", func(r *specs.LinuxResources, s string) error { return signed(&cpu(r).Idle, s) }},
	{"pids-limit", "number of processes and threads", func(r *specs.LinuxResources, s string) error {
		if r.Pids == nil {
			r.Pids = &specs.LinuxPids{}
		}
		return signed(&r.Pids.Limit, s)
	}},
	{"blkio-weight", "weight of its block I/O, 10 to 1000", func(r *specs.LinuxResources, s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return errors.New("is no weight")
		}
		if r.BlockIO == nil {
			r.BlockIO = &specs.LinuxBlockIO{}
		}
		w := uint16(n)
		r.BlockIO.Weight = &w
		return nil
	}},
}

func memory(r *specs.LinuxResources) *specs.LinuxMemory {
	if r.Memory == nil {
		r.Memory = &specs.LinuxMemory{}
	}
	return r.Memory
}

func cpu(r *specs.LinuxResources) *specs.LinuxCPU {
	if r.CPU == nil {
		r.CPU = &specs.LinuxCPU{}
	}
	return r.CPU
}

func signed(to **int64, s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return errors.New("is no whole number")
	}
	*to = &n
	return nil
}

func unsigned(to **uint64, s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return errors.New("is no whole number from 0 on")
	}
	*to = &n
	return nil
}

// parseBytes reads a size: 1048576, 512m, 2g, 2GiB.
func parseBytes(to **int64, s string) error {
	low := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
	shift := 0
	for i, unit := range []string{"k", "m", "g", "t"} {
		if rest, ok := strings.CutSuffix(low, unit); ok {
			low, shift = rest, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(low, 10, 64)
	if err != nil || n < -1 || n == -1 && shift > 0 || n > (1<<62)>>shift {
		return errors.New("is no size in bytes")
	}
	n <<= shift
	*to = &n
	return nil
}
