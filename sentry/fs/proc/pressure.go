package proc

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// /proc/pressure says how long tasks stalled for want of a resource (kernel/sched/psi.c,
// Documentation/accounting/psi.rst). Only the host knows for how long a thread of the
// container's waited for a CPU or a disk, and memory is not reclaimed here: no task stalls
// that the Sentry hears of. So nothing has, and a trigger, which is checked as on
// Linux, never goes off.
const pressureText = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"

const (
	maxWindow     = 10_000_000 // microseconds of a trigger (WINDOW_MAX_US)
	averageWindow = 2_000_000  // a multiple of it, for who is not privileged
	maxTrigger    = 32         // bytes, and what is the last of those is no part
)

func (fs *FileSystem) addPressure(root *kernfs.Dir) {
	dir := root.Sub("pressure")
	for _, resource := range []string{"cpu", "io", "memory"} {
		dir.Add(resource, &pressure{fs.NewNode(unix.S_IFREG | 0o666)})
	}
}

// pressure is one of the files.
type pressure struct{ kernfs.Node }

func (p *pressure) Open(ctx vfs.Context, _ vfs.Path, _ int) (vfs.File, error) {
	return &pressureFile{privileged: ctx.Creds().Has(unix.CAP_SYS_RESOURCE)}, nil
}

// SetAttr lets it be truncated, for a shell's ">".
func (p *pressure) SetAttr(ctx vfs.Context, set vfs.SetAttr) error {
	if set.Mask&(vfs.SetMode|vfs.SetUID|vfs.SetGID) == 0 && set.Mask&vfs.SetSize != 0 {
		return nil
	}
	return p.Node.SetAttr(ctx, set)
}

type pressureFile struct {
	vfs.NoFile
	privileged bool

	mu      sync.Mutex
	trigger bool

	queue vfs.Queue // nothing is ever told there
}

func (f *pressureFile) Read(_ vfs.Context, dst memory.Buffers, off int64) (int, error) {
	if off >= int64(len(pressureText)) {
		return 0, nil
	}
	return dst.CopyOut([]byte(pressureText[off:])), nil
}

// Write sets the trigger, once (psi_write, psi_trigger_create).
func (f *pressureFile) Write(_ vfs.Context, src memory.Buffers, _ int64) (int, error) {
	n := src.Len()
	if n == 0 {
		return 0, unix.EINVAL
	}
	b := make([]byte, min(n, maxTrigger))
	if src.CopyIn(b) < len(b) {
		return 0, unix.EFAULT
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trigger {
		return 0, unix.EBUSY
	}
	text, _, _ := strings.Cut(string(b[:len(b)-1]), "\x00")
	var kind string
	var threshold, window uint32
	if got, _ := fmt.Sscanf(text, "%s %d %d", &kind, &threshold, &window); got != 3 || kind != "some" && kind != "full" {
		return 0, unix.EINVAL
	}
	if window == 0 || window > maxWindow || !f.privileged && window%averageWindow != 0 || threshold == 0 || threshold > window {
		return 0, unix.EINVAL
	}
	f.trigger = true
	return n, nil
}

func (f *pressureFile) Queue() *vfs.Queue { return &f.queue }

func (f *pressureFile) Ready(mask vfs.Events) vfs.Events {
	f.mu.Lock()
	defer f.mu.Unlock()
	ready := mask & (vfs.EventIn | vfs.EventOut)
	if !f.trigger {
		ready |= vfs.EventErr | mask&vfs.EventPri
	}
	return ready
}
