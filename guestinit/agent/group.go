package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// groups is where containers' control groups are, of version 2.
const groups = "/sys/fs/cgroup"

// controllers that containers have. A kernel without one has no such limit.
var controllers = []string{"memory", "pids", "cpu", "cpuset", "io"}

// prepareGroups gives groups their controllers.
func prepareGroups() error {
	have, err := os.ReadFile(groups + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	for _, c := range controllers {
		for name := range strings.FieldsSeq(string(have)) {
			if name == c {
				if err := os.WriteFile(groups+"/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
					return fmt.Errorf("control groups: %s: %w", c, err)
				}
			}
		}
	}
	return nil
}

// promiseMemory has the kernel refuse no program memory before it is used. By default it
// refuses what is obviously more than there is, which a program that asks for much and uses
// little gets of a host and would not get of a guest, that has little more than its
// container's limit. Who uses more than the limit is killed, as behind any wall
// (Documentation/mm/overcommit-accounting.rst; 1 is "always overcommit").
func promiseMemory() error {
	if err := os.WriteFile("/proc/sys/vm/overcommit_memory", []byte("1"), 0); err != nil {
		return fmt.Errorf("promise memory: %w", err)
	}
	return nil
}

// group is a container's control group.
type group struct {
	path  string
	dir   *os.File // to start processes in it
	kills *killWatch
}

func newGroup(name string, l *rpc.Limits, files map[string]string) (*group, error) {
	// A name is one component: "." and "/" could lead elsewhere.
	g, err := makeGroup("container-" + strings.ReplaceAll(name, "/", "_"))
	if err != nil {
		return nil, err
	}
	if err := g.limit(l, files); err != nil {
		g.remove()
		return nil, err
	}
	return g, nil
}

// makeGroup makes one without limits.
func makeGroup(name string) (*group, error) {
	g := &group{path: filepath.Join(groups, name)}
	err := os.Mkdir(g.path, 0o755)
	if err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	if g.dir, err = os.Open(g.path); err == nil {
		g.kills, err = watchKills(g.path)
	}
	if err != nil {
		g.remove()
		return nil, err
	}
	return g, nil
}

// remove lets go of a group without processes.
func (g *group) remove() {
	if g == nil {
		return
	}
	g.kills.close()
	if g.dir != nil {
		g.dir.Close()
	}
	_ = os.Remove(g.path) // one with a process that is just ending stays behind, and harms nobody
}

// limit sets what is given. What cannot be set is named; what was set before it stays.
func (g *group) limit(l *rpc.Limits, files map[string]string) error {
	for _, w := range []struct {
		file  string
		value uint64
	}{{"memory.max", l.GetMemory()}, {"pids.max", l.GetPids()}} {
		text := "max"
		if w.value != 0 {
			text = strconv.FormatUint(w.value, 10)
		}
		err := g.write(w.file, text)
		if errors.Is(err, os.ErrNotExist) && w.value == 0 {
			continue
		}
		if err != nil {
			return err
		}
	}
	return g.set(files)
}

// set writes files. Some values the kernel takes only beside others (a burst that is within
// the quota, a weight of who is not idle), in no order that holds for a change in either
// direction: what it refuses is tried again behind the rest, as long as that helps.
func (g *group) set(files map[string]string) error {
	names := slices.Sorted(maps.Keys(files))
	for len(names) > 0 {
		var refused []string
		var first error
		for _, name := range names {
			if err := g.write(name, files[name]); err != nil {
				refused = append(refused, name)
				first = cmp.Or(first, err)
			}
		}
		if len(refused) == len(names) {
			return first
		}
		names = refused
	}
	return nil
}

func (g *group) write(name, value string) error {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return fmt.Errorf("control group: %q is no file of one: %w", name, unix.EINVAL)
	}
	f, err := os.OpenFile(filepath.Join(g.path, name), os.O_WRONLY, 0) // O_CREAT would be EACCES for one that is not there
	if err == nil {
		_, err = f.WriteString(value)
		f.Close()
	}
	switch {
	case errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "memory.swap."):
		return nil // a kernel without swap has none to limit
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("control group: the guest's kernel has no %s: %w", name, unix.ENOENT)
	case err != nil:
		return fmt.Errorf("control group: %s does not take %q: %w", name, value, errors.Unwrap(err))
	}
	return nil
}

func (g *group) processes() ([]int, error) {
	b, err := os.ReadFile(g.path + "/cgroup.procs")
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// signal sends one to every process.
func (g *group) signal(n unix.Signal) error {
	if n == unix.SIGKILL {
		return os.WriteFile(g.path+"/cgroup.kill", []byte("1"), 0) // those that are just being forked as well
	}
	pids, err := g.processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, n) // ESRCH: it has ended
	}
	return nil
}

// freeze stops all processes, or lets them go on, and waits until that is so.
func (g *group) freeze(ctx context.Context, frozen bool) error {
	n := uint64(0)
	if frozen {
		n = 1
	}
	if err := os.WriteFile(g.path+"/cgroup.freeze", []byte(strconv.FormatUint(n, 10)), 0); err != nil {
		return err
	}
	return g.await(ctx, "frozen", n)
}

// await waits until a line of cgroup.events says so. The kernel tells of changes by
// POLLPRI (Documentation/admin-guide/cgroup-v2.rst, cgroup.events).
func (g *group) await(ctx context.Context, name string, value uint64) error {
	f, err := os.Open(g.path + "/cgroup.events")
	if err != nil {
		return err
	}
	defer f.Close()
	wake, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wake.Close()
	defer end.Close()
	defer context.AfterFunc(ctx, func() { end.Close() })()
	for {
		b := make([]byte, 4096)
		n, err := f.ReadAt(b, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if got, ok := parseTable(b[:n])[name]; ok && got == value {
			return nil
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}, {Fd: int32(wake.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (g *group) stats() *rpc.StatsResponse {
	memory, cpu := g.table("memory.stat"), g.table("cpu.stat")
	return &rpc.StatsResponse{
		Processes: g.number("pids.current"),
		Memory:    g.number("memory.current"), MemoryMax: g.number("memory.peak"),
		Cache: memory["file"], Faults: memory["pgfault"],
		OomKills: g.oomKills(),
		CpuUser:  int64(cpu["user_usec"]) * 1000, CpuSystem: int64(cpu["system_usec"]) * 1000,
	}
}

// oomKills is how many of its processes were killed for want of memory, of its limit's or
// of the guest's. The kernel counts one before it kills it (mm/oom_kill.c,
// __oom_kill_process).
func (g *group) oomKills() uint64 { return g.table("memory.events")["oom_kill"] }

// number is what a file of one number says, 0 where there is none.
func (g *group) number(file string) uint64 {
	b, _ := os.ReadFile(filepath.Join(g.path, file))
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// table is a file of a name and a number a line.
func (g *group) table(file string) map[string]uint64 {
	b, _ := os.ReadFile(filepath.Join(g.path, file))
	return parseTable(b)
}

func parseTable(b []byte) map[string]uint64 {
	t := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		t[name], _ = strconv.ParseUint(value, 10, 64)
	}
	return t
}
