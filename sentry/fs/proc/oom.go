package proc

import (
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// oomScore is the share of memory in thousandths, changed by the adjustment
// (mm/oom_kill.c, oom_badness), scaled as proc_oom_score has it.
func oomScore(fs *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	var points int64
	if m := s.memory(); m != nil {
		adj := int64(s.g.OOMScoreAdj.Load())
		total := max(int64(fs.total()), 1)
		points = (1000 + int64(m.Sizes().Resident)*1000/total + adj) * 2 / 3
		if adj == -1000 {
			points = 0
		}
	}
	return fmt.Appendf(nil, "%d\n", max(points, 0)), nil
}

func oomScoreAdj(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	return fmt.Appendf(nil, "%d\n", s.g.OOMScoreAdj.Load()), nil
}

func setOOMScoreAdj(_ *FileSystem, ctx vfs.Context, s subject, b []byte) error {
	v, err := parseInt(b)
	if err != nil {
		return err
	}
	if v < -1000 || v > 1000 {
		return unix.EINVAL
	}
	return setAdjustment(ctx, s.g, int32(v))
}

func setAdjustment(ctx vfs.Context, g *kernel.ThreadGroup, v int32) error {
	if v < g.OOMScoreAdj.Load() && !ctx.Creds().Has(unix.CAP_SYS_RESOURCE) {
		return unix.EACCES
	}
	g.OOMScoreAdj.Store(v)
	return nil
}

// oomAdj is the old scale, -17 to 15.
func oomAdj(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	v := s.g.OOMScoreAdj.Load()
	if v == 1000 {
		return []byte("15\n"), nil
	}
	return fmt.Appendf(nil, "%d\n", v*17/1000), nil
}

func setOOMAdj(_ *FileSystem, ctx vfs.Context, s subject, b []byte) error {
	v, err := parseInt(b)
	if err != nil {
		return err
	}
	if (v < -16 || v > 15) && v != -17 {
		return unix.EINVAL
	}
	if v == 15 {
		return setAdjustment(ctx, s.g, 1000)
	}
	return setAdjustment(ctx, s.g, int32(v*1000/17))
}
