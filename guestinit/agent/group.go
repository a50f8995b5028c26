package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// group is a container's control group.
type group struct {
	path string
	dir  *os.File // to start processes in it
}

func newGroup(name string, l *rpc.Limits) (*group, error) {
	// A name is one component: "." and "/" could lead elsewhere.
	path := filepath.Join(groups, "container-"+strings.ReplaceAll(name, "/", "_"))
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	g := &group{path: path}
	dir, err := os.Open(path)
	if err == nil {
		g.dir = dir
		err = g.limit(l)
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
	if g.dir != nil {
		g.dir.Close()
	}
	_ = os.Remove(g.path) // one with a process that is just ending stays behind, and harms nobody
}

func (g *group) limit(l *rpc.Limits) error {
	for _, w := range []struct {
		file  string
		value uint64
	}{{"memory.max", l.GetMemory()}, {"pids.max", l.GetPids()}} {
		text := "max"
		if w.value != 0 {
			text = strconv.FormatUint(w.value, 10)
		}
		err := os.WriteFile(filepath.Join(g.path, w.file), []byte(text), 0)
		if errors.Is(err, os.ErrNotExist) && w.value == 0 {
			continue
		}
		if err != nil {
			return fmt.Errorf("limit: %w", err)
		}
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

func (g *group) stats() *rpc.StatsResponse {
	memory, cpu := g.table("memory.stat"), g.table("cpu.stat")
	return &rpc.StatsResponse{
		Processes: g.number("pids.current"),
		Memory:    g.number("memory.current"), MemoryMax: g.number("memory.peak"),
		Cache:    memory["file"],
		OomKills: g.table("memory.events")["oom_kill"],
		CpuUser:  int64(cpu["user_usec"]) * 1000, CpuSystem: int64(cpu["system_usec"]) * 1000,
	}
}

// number is what a file of one number says, 0 where there is none.
func (g *group) number(file string) uint64 {
	b, _ := os.ReadFile(filepath.Join(g.path, file))
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// table is a file of a name and a number a line.
func (g *group) table(file string) map[string]uint64 {
	b, _ := os.ReadFile(filepath.Join(g.path, file))
	t := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		t[name], _ = strconv.ParseUint(value, 10, 64)
	}
	return t
}
