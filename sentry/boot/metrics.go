package boot

import (
	"context"

	"bulkhead/runtime/agent"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

var _ agent.Metering = (*sandbox)(nil)

// Metrics implements agent.Metering. Nothing is stopped for it, so figures that
// belong together may be an instant apart.
func (s *sandbox) Metrics(ctx context.Context, container string) (*agent.Metrics, error) {
	st, err := s.Stats(ctx, container)
	if err != nil {
		return nil, err
	}
	k := s.kernel
	f := s.arena.Figures()
	m := &agent.Metrics{Stats: *st, ArenaFree: f.Free, TextCache: f.Text, Windows: f.Windows,
		Started: k.Started.Load(), Cloned: k.Forks.Load(), Execs: k.Execs.Load(),
		EndedZero: k.Ends[kernel.EndedZero].Load(), EndedFailed: k.Ends[kernel.EndedFailed].Load(),
		EndedSignal: k.Ends[kernel.EndedSignal].Load(), EndedCore: k.Ends[kernel.EndedDumped].Load()}
	calls, errors := s.calls.Counts()
	for _, c := range calls {
		m.ByCall = append(m.ByCall, agent.CallCount(c))
	}
	m.ByErrno = map[int]uint64{}
	for e, n := range errors {
		m.ByErrno[int(e)] = n
	}
	m.Groups, m.Descriptors = s.countOpen()
	for _, c := range s.counters() {
		m.Platform = append(m.Platform, agent.PlatformCounter(c))
	}
	m.ReadGo()
	return m, nil
}

// counters are the platform's.
func (s *sandbox) counters() []platform.Counter {
	if c, ok := s.plat.(platform.Counted); ok {
		return c.Counters()
	}
	return nil
}

// countOpen counts processes and the descriptors of their tables, shared ones once.
func (s *sandbox) countOpen() (groups, fds uint64) {
	seen := map[*vfs.FDTable]bool{}
	for _, g := range s.kernel.Groups() {
		groups++
		for _, t := range g.Tasks() {
			if _, table, _ := t.Look(); table != nil && !seen[table] {
				seen[table] = true
				fds += uint64(table.Len())
			}
		}
	}
	return groups, fds
}
