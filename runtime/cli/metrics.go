package cli

import (
	"context"
	"fmt"
	"os"
	"sync"

	"bulkhead/runtime/container"
	"bulkhead/runtime/metrics"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

// metricsAddr is what --metrics and --listen take.
const metricsAddr = "HOST:PORT, PORT (of 127.0.0.1) or the path of a Unix socket"

func (a *app) metrics() *cobra.Command {
	var addr string
	c := &cobra.Command{
		Use:   "metrics [flags] [ID…]",
		Short: "Print or serve what containers have counted, for Prometheus",
		Long: `Print what the containers under --root have counted (all, or those named) in the text
format of Prometheus, or with --listen serve it at /metrics until you interrupt:
system calls by name and outcome, faults, memory, tasks, descriptors, network, starts and
ends, CPU time, what the platform counts, and the Sentry's own share.

The figures are asked of the sandboxes when somebody reads them; nothing runs
in between. A sandbox itself has no network to listen on. One that does not
answer in time, or is paused, shows as bulkhead_up 0.`,
		Example:           "  bulkhead metrics --listen 9111\n  bulkhead metrics --listen /run/bulkhead/metrics.sock\n  bulkhead metrics my-container",
		ValidArgsFunction: a.ids,
		RunE: func(cmd *cobra.Command, args []string) error {
			collect := a.collector(args)
			if addr == "" {
				return metrics.Write(os.Stdout, collect(cmd.Context()), a.callNames())
			}
			l, err := metrics.Listen(addr)
			if err != nil {
				return err
			}
			fmt.Println("serving metrics at", l.Addr())
			return metrics.Serve(cmd.Context(), l, collect, a.callNames())
		},
	}
	c.Flags().StringVarP(&addr, "listen", "l", "", "serve at "+metricsAddr)
	return c
}

// metricsFlag is for verbs that stay with their container.
func (a *app) metricsFlag(c *cobra.Command) {
	c.Flags().StringVar(&a.metricsAt, "metrics", "", "serve what the container has counted, for Prometheus, at "+metricsAddr)
}

func (a *app) callNames() metrics.Names {
	if a.CallName == nil {
		return metrics.Names{Call: func(int) string { return "" }}
	}
	return metrics.Names{Call: a.CallName}
}

// serveMetrics answers for one container, from before it is made until stop is called.
func (a *app) serveMetrics(ctx context.Context, id string) (stop func(), err error) {
	if a.metricsAt == "" {
		return func() {}, nil
	}
	l, err := metrics.Listen(a.metricsAt)
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var served sync.WaitGroup
	served.Go(func() {
		if err := metrics.Serve(ctx, l, a.collector([]string{id}), a.callNames()); err != nil {
			a.log.Warn("metrics are served no more", "err", err)
		}
	})
	return func() { cancel(); served.Wait() }, nil
}

// asked is how many sandboxes are asked at a time.
const asked = 16

// collector asks the containers ids, all if there are none. Those that vanish
// meanwhile are left out.
func (a *app) collector(ids []string) metrics.Collect {
	return func(ctx context.Context) []metrics.Container {
		ids := ids
		if len(ids) == 0 {
			var err error
			if ids, err = listIDs(a.rt.Root); err != nil {
				a.log.Warn("containers cannot be listed", "err", err)
			}
		}
		all := make([]*metrics.Container, len(ids))
		turn := make(chan struct{}, asked)
		var wait sync.WaitGroup
		for i, id := range ids {
			turn <- struct{}{}
			wait.Go(func() {
				defer func() { <-turn }()
				if c, err := a.rt.Open(id); err == nil {
					all[i] = measured(ctx, c)
				}
			})
		}
		wait.Wait()
		var list []metrics.Container
		for _, c := range all {
			if c != nil {
				list = append(list, *c)
			}
		}
		return list
	}
}

// measured is one container's part.
func measured(ctx context.Context, c *container.Container) *metrics.Container {
	s := c.State
	m := &metrics.Container{ID: s.ID, Status: string(c.Status()), Platform: s.Platform, Isolation: s.Isolation}
	if m.Status == string(specs.StateStopped) {
		return m
	}
	var err error
	if m.Inside, err = c.Metrics(ctx); err != nil {
		m.Inside = nil
	}
	if n := s.Network; n != nil {
		for _, d := range n.Devices {
			m.Interfaces = append(m.Interfaces, d.Name)
		}
	}
	if h, err := c.HostStats(); err == nil && h != nil {
		m.Host = &metrics.Host{CPU: h.CpuStats.CpuUsage.TotalUsage, Memory: h.MemoryStats.Usage.Usage}
	}
	return m
}
