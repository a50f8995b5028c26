// Package metrics writes what containers have counted in the text format that
// Prometheus reads (prometheus.io/docs/instrumenting/exposition_formats, version
// 0.0.4), and serves it by HTTP. It knows what a sandbox counts (runtime/agent) and
// not how to reach one.
//
// The figures come from sandboxes, which may be hostile: a label's value is a
// container's ID, which the runtime has checked, or a word of a table of ours.
// A number without a name there is dropped or counted with the unknown, so that no
// container decides how many series there are.
package metrics

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent"
)

// Container is one container's part of a page.
type Container struct {
	ID        string
	Status    string // created, running, paused, stopped
	Platform  string // kvm, ptrace
	Isolation string
	Inside    *agent.Metrics // nil: the sandbox did not answer, or is paused
	Host      *Host          // nil: no control group

	// Interfaces are the names that the engine gave those of Inside.Interfaces; what is beyond
	// them there is no interface.
	Interfaces []string
}

// Host is what the host's control group says, the Sentry's own share included.
type Host struct {
	CPU    uint64 // nanoseconds
	Memory uint64 // bytes
}

// Names are the words that numbers stand for.
type Names struct {
	Call func(nr int) string // "" for a number without a call
}

// family is one metric. each emits a sample for its labels (pairs) and value.
type family struct {
	name, kind, help string
	each             func(c *Container, n *Names, emit func(value float64, labels ...string))
}

// one makes a family of one sample a container, as gauge and counter do.
func one(name, kind, help string, value func(m *agent.Metrics) float64) family {
	return family{name, kind, help, func(c *Container, _ *Names, emit func(float64, ...string)) {
		if c.Inside != nil {
			emit(value(c.Inside))
		}
	}}
}

func gauge(name, help string, value func(m *agent.Metrics) uint64) family {
	return one(name, "gauge", help, func(m *agent.Metrics) float64 { return float64(value(m)) })
}

func counter(name, help string, value func(m *agent.Metrics) uint64) family {
	return one(name, "counter", help, func(m *agent.Metrics) float64 { return float64(value(m)) })
}

// counted leaves out a machine's, which has no such figure.
func counted(f family) family {
	each := f.each
	f.each = func(c *Container, n *Names, emit func(float64, ...string)) {
		if c.Inside != nil && !c.Inside.Machine {
			each(c, n, emit)
		}
	}
	return f
}

const second = 1e9 // nanoseconds

// families are the page, in order. What begins with bulkhead_sandbox is of the
// sandbox's process, the Sentry or a machine; with bulkhead_host, as the host's control group counts; all else of
// the container as it sees itself.
var families = []family{
	{"bulkhead_container_info", "gauge", "A container; always 1.", func(c *Container, _ *Names, emit func(float64, ...string)) {
		emit(1, "status", c.Status, "platform", c.Platform, "isolation", c.Isolation)
	}},
	{"bulkhead_up", "gauge", "Whether the sandbox answered this time.", func(c *Container, _ *Names, emit func(float64, ...string)) {
		if c.Inside != nil {
			emit(1)
		} else {
			emit(0)
		}
	}},
	{"bulkhead_syscalls_total", "counter", "System calls answered, by name and outcome: ok, error, or interrupted by a signal before anything was done.", eachCall},
	{"bulkhead_syscall_errors_total", "counter", "Errors that system calls gave, by errno.", eachErrno},
	counter("bulkhead_page_faults_total", "Page faults answered.", func(m *agent.Metrics) uint64 { return m.Faults }),
	{"bulkhead_cpu_seconds_total", "counter", "CPU time of the container's tasks: user is their own code, system their kernel's work for them.",
		func(c *Container, _ *Names, emit func(float64, ...string)) {
			if m := c.Inside; m != nil {
				emit(float64(max(m.CPUUser, 0))/second, "mode", "user")
				emit(float64(max(m.CPUSystem, 0))/second, "mode", "system")
			}
		}},
	{"bulkhead_memory_bytes", "gauge", "Memory: used (applications, tmpfs, text), text (of used: copies of files that run), free (kept for re-use), host_files (windows onto the host's page cache); in a machine used and, of it, files (its page cache).",
		func(c *Container, _ *Names, emit func(float64, ...string)) {
			if m := c.Inside; m != nil {
				emit(float64(m.Memory), "kind", "used")
				if m.Machine {
					emit(float64(m.Cache), "kind", "files")
					return
				}
				emit(float64(m.TextCache), "kind", "text")
				emit(float64(m.ArenaFree), "kind", "free")
				emit(float64(m.Windows), "kind", "host_files")
			}
		}},
	gauge("bulkhead_memory_limit_bytes", "Limit of the container's memory; 0: none.", func(m *agent.Metrics) uint64 { return m.MemoryLimit }),
	counter("bulkhead_oom_kills_total", "Processes killed for want of memory.", func(m *agent.Metrics) uint64 { return m.OOMKills }),
	gauge("bulkhead_tasks", "Tasks (threads) that live.", func(m *agent.Metrics) uint64 { return m.Processes }),
	gauge("bulkhead_tasks_limit", "Limit of tasks; 0: none.", func(m *agent.Metrics) uint64 { return m.PidsLimit }),
	counted(gauge("bulkhead_processes", "Processes, zombies included.", func(m *agent.Metrics) uint64 { return m.Groups })),
	counted(gauge("bulkhead_descriptors", "Open file descriptors of all processes.", func(m *agent.Metrics) uint64 { return m.Descriptors })),
	counted(counter("bulkhead_processes_started_total", "Processes started, by fork or from outside.", func(m *agent.Metrics) uint64 { return m.Started })),
	counted(counter("bulkhead_clones_total", "Tasks made by clone and fork, threads included.", func(m *agent.Metrics) uint64 { return m.Cloned })),
	counted(counter("bulkhead_execs_total", "Programs that took another's place.", func(m *agent.Metrics) uint64 { return m.Execs })),
	counted(family{"bulkhead_processes_ended_total", "counter", "Processes that ended, by how: exit status zero or nonzero, a signal, or a signal with a core file.",
		func(c *Container, _ *Names, emit func(float64, ...string)) {
			if m := c.Inside; m != nil {
				emit(float64(m.EndedZero), "how", "zero")
				emit(float64(m.EndedFailed), "how", "nonzero")
				emit(float64(m.EndedSignal), "how", "signal")
				emit(float64(m.EndedCore), "how", "core")
			}
		}}),
	{"bulkhead_network_bytes_total", "counter", "Bytes that an interface has carried, with the headers of its link.", carried(
		func(t *agent.Traffic) (received, sent uint64) { return t.RxBytes, t.TxBytes })},
	{"bulkhead_network_packets_total", "counter", "Packets that an interface has carried; of up to 64 KiB, where the other end is on this host.", carried(
		func(t *agent.Traffic) (received, sent uint64) { return t.RxPackets, t.TxPackets })},
	{"bulkhead_network_dropped_total", "counter", "Packets that an interface has lost for want of room, or that nobody takes.", carried(
		func(t *agent.Traffic) (received, sent uint64) { return t.RxDropped, t.TxDropped })},
	{"bulkhead_platform_total", "counter", "What the platform counts: calls by the way they came, exits, faults, call sites patched or refused; of a machine exits, interrupts, requests of its devices.", platform(false)},
	{"bulkhead_platform", "gauge", "What the platform has: virtual CPUs, stub processes, a machine's memory.", platform(true)},
	gauge("bulkhead_sandbox_goroutines", "Goroutines of its process.", func(m *agent.Metrics) uint64 { return m.Goroutines }),
	gauge("bulkhead_sandbox_go_heap_bytes", "Objects on its process's Go heap.", func(m *agent.Metrics) uint64 { return m.GoHeap }),
	gauge("bulkhead_sandbox_go_memory_bytes", "What its process's Go runtime has mapped.", func(m *agent.Metrics) uint64 { return m.GoTotal }),
	counter("bulkhead_sandbox_go_gc_cycles_total", "Garbage collections of its process.", func(m *agent.Metrics) uint64 { return m.GoCycles }),
	{"bulkhead_host_cpu_seconds_total", "counter", "CPU time of the sandbox on the host, by its control group.", func(c *Container, _ *Names, emit func(float64, ...string)) {
		if c.Host != nil {
			emit(float64(c.Host.CPU) / second)
		}
	}},
	{"bulkhead_host_memory_bytes", "gauge", "Memory of the sandbox on the host, by its control group.", func(c *Container, _ *Names, emit func(float64, ...string)) {
		if c.Host != nil {
			emit(float64(c.Host.Memory))
		}
	}},
}

// unknown names what has no name.
const unknown = "unknown"

// eachCall sums up what has one name, for a series may stand only once.
func eachCall(c *Container, n *Names, emit func(float64, ...string)) {
	if c.Inside == nil {
		return
	}
	sum := map[string]*[3]uint64{}
	var order []string
	for _, k := range c.Inside.ByCall {
		name := n.Call(k.Number)
		if name == "" {
			name = unknown
		}
		s := sum[name]
		if s == nil {
			s = new([3]uint64)
			sum[name] = s
			order = append(order, name)
		}
		s[0], s[1], s[2] = s[0]+k.Done, s[1]+k.Failed, s[2]+k.Interrupted
	}
	slices.Sort(order)
	for _, name := range order {
		for i, outcome := range []string{"ok", "error", "interrupted"} {
			if v := sum[name][i]; v > 0 {
				emit(float64(v), "name", name, "outcome", outcome)
			}
		}
	}
}

func eachErrno(c *Container, _ *Names, emit func(float64, ...string)) {
	if c.Inside == nil {
		return
	}
	var es []int
	for e := range c.Inside.ByErrno {
		if e > 0 && unix.ErrnoName(unix.Errno(e)) != "" {
			es = append(es, e)
		}
	}
	slices.Sort(es)
	for _, e := range es {
		emit(float64(c.Inside.ByErrno[e]), "errno", unix.ErrnoName(unix.Errno(e)))
	}
}

// carried is a figure of each interface, both ways.
func carried(of func(t *agent.Traffic) (received, sent uint64)) func(c *Container, _ *Names, emit func(float64, ...string)) {
	return func(c *Container, _ *Names, emit func(float64, ...string)) {
		if c.Inside == nil {
			return
		}
		for i, name := range c.Interfaces[:min(len(c.Interfaces), len(c.Inside.Interfaces))] {
			received, sent := of(&c.Inside.Interfaces[i])
			emit(float64(received), "interface", name, "direction", "received")
			emit(float64(sent), "interface", name, "direction", "sent")
		}
	}
}

// mostCounters is far above what a platform has.
const mostCounters = 64

// platform takes words alone, each once, and not any number of them.
func platform(level bool) func(c *Container, _ *Names, emit func(float64, ...string)) {
	return func(c *Container, _ *Names, emit func(float64, ...string)) {
		if c.Inside == nil {
			return
		}
		seen := map[string]bool{}
		for _, p := range c.Inside.Platform[:min(len(c.Inside.Platform), mostCounters)] {
			if p.Level != level || !word(p.Name) || seen[p.Name] {
				continue
			}
			seen[p.Name] = true
			emit(float64(p.Value), "event", p.Name)
		}
	}
}

// word is what platform.Counter promises of a name.
func word(s string) bool {
	const longest = 40
	return s != "" && len(s) <= longest && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// Write writes the page of containers.
func Write(w io.Writer, list []Container, n Names) error {
	var b bytes.Buffer
	for _, f := range families {
		headed := false
		for i := range list {
			c := &list[i]
			f.each(c, &n, func(value float64, labels ...string) {
				if !headed {
					headed = true
					fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.name, escapeHelp(f.help), f.name, f.kind)
				}
				sample(&b, f.name, value, append([]string{"container", c.ID}, labels...))
			})
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func sample(b *bytes.Buffer, name string, value float64, labels []string) {
	b.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(b, `%s="%s"`, labels[i], escapeValue(labels[i+1]))
	}
	b.WriteString("} " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}

// escapeValue makes any text a label's value: UTF-8 with backslash, quote and line
// feed escaped.
func escapeValue(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "\ufffd"))
}

func escapeHelp(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(s)
}
