package cgroup

import (
	"encoding/json"
	"fmt"
	"testing"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestGuest: what a machine's guest is told of the resources, or which it cannot be.
func TestGuest(t *testing.T) {
	for _, row := range []struct{ resources, want string }{
		{`{}`, `map[] <nil>`},
		{`{"memory":{"limit":100,"reservation":50,"swap":130},"pids":{"limit":7}}`, `map[memory.low:50 memory.swap.max:30] <nil>`},
		{`{"memory":{"limit":100,"swap":100,"swappiness":1}}`, `map[memory.swap.max:0] <nil>`},
		{`{"memory":{"reservation":-1,"swap":-1,"disableOOMKiller":false}}`, `map[memory.low:0 memory.swap.max:max] <nil>`},
		{`{"cpu":{"shares":1024,"quota":50000,"cpus":"0-1","mems":"0"}}`, `map[cpu.max:50000 100000 cpu.weight:100 cpuset.cpus:0-1] <nil>`},
		{`{"cpu":{"quota":-1,"period":20000,"burst":5}}`, `map[cpu.max:max 20000 cpu.max.burst:5] <nil>`},
		{`{"cpu":{"shares":1024,"idle":1}}`, `map[cpu.idle:1] <nil>`},
		{`{"cpu":{"shares":2,"idle":0}}`, `map[cpu.idle:0 cpu.weight:1] <nil>`},
		{`{"cpu":{"realtimeRuntime":950000,"realtimePeriod":1000000}}`, `map[] linux.resources.cpu.realtimeRuntime: a guest's control groups have no real-time share`},
		{`{"cpu":{"realtimeRuntime":0,"realtimePeriod":1000000}}`, `map[] <nil>`},
		{`{"cpu":{"shares":1024},"unified":{"cpu.weight":"7","memory.high":"1000","memory.max":"2000","pids.max":"9"}}`, `map[cpu.weight:7 memory.high:1000] <nil>`},
		{`{"unified":{"cgroup.max.depth":"1"}}`, `map[cgroup.max.depth:1] <nil>`},
		{`{"unified":{"cgroup.procs":"1"}}`, `map[] linux.resources.unified: cgroup.procs is not a container's to set`},
		{`{"unified":{"../cpu.max":"1"}}`, `map[] linux.resources.unified: "../cpu.max" is no file of a control group`},
		{`{"unified":{"..":"1"}}`, `map[] linux.resources.unified: ".." is no file of a control group`},
		{`{"unified":{"cpuset.cpus":"many"}}`, `map[] linux.resources.cpu.cpus: "many" is no list of CPUs, as 0-2,7`},
		{`{"hugepageLimits":[{"pageSize":"2MB","limit":0}],"blockIO":{"weight":10},"network":{"classID":1},"devices":[{"allow":false}]}`, `map[] <nil>`},
	} {
		r := new(specs.LinuxResources)
		if err := json.Unmarshal([]byte(row.resources), r); err != nil {
			t.Fatal(err)
		}
		files, err := Guest(r)
		if got := fmt.Sprint(files, " ", err); got != row.want {
			t.Errorf("%s: %s, want %s", row.resources, got, row.want)
		}
	}
	if files, err := Guest(nil); files != nil || err != nil {
		t.Errorf("of none: %v, %v", files, err)
	}
}

// TestInside: what is named by a file counts, and a list of CPUs by how many there are.
func TestInside(t *testing.T) {
	limit := int64(100)
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &limit}, CPU: &specs.LinuxCPU{Cpus: "1,3-4"},
	}
	if got, want := Inside(r), (agent.Limits{Memory: 100, Pids: 100, CPUSet: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	r.Unified = map[string]string{memoryFile: "200", pidsFile: "max"}
	if got, want := Inside(r), (agent.Limits{Memory: 200, Pids: 100, CPUSet: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
