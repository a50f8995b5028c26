package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hookKind is one of the six lists: what its hooks see, and where they run.
type hookKind struct {
	name    string
	status  specs.ContainerState // what the state on their standard input says
	inside  bool                 // they are the container's programs
	section string               // of config.md
	of      func(*specs.Hooks) *[]specs.Hook
}

var hookKinds = []hookKind{
	//lint:ignore SA1019 docker still uses it
	{"prestart", specs.StateCreating, false, "Prestart", func(h *specs.Hooks) *[]specs.Hook { return &h.Prestart }},
	{"createRuntime", specs.StateCreating, false, "CreateRuntime Hooks", func(h *specs.Hooks) *[]specs.Hook { return &h.CreateRuntime }},
	{"createContainer", specs.StateCreating, false, "CreateContainer Hooks", func(h *specs.Hooks) *[]specs.Hook { return &h.CreateContainer }},
	{"startContainer", specs.StateCreated, true, "StartContainer Hooks", func(h *specs.Hooks) *[]specs.Hook { return &h.StartContainer }},
	{"poststart", specs.StateRunning, false, "Poststart", func(h *specs.Hooks) *[]specs.Hook { return &h.Poststart }},
	{"poststop", specs.StateStopped, false, "Poststop", func(h *specs.Hooks) *[]specs.Hook { return &h.Poststop }},
}

// add gives a configuration a hook of this kind, a script that finds marks in $MARKS.
func (k *hookKind) add(marks, script string) func(*specs.Spec) {
	at := marks
	if k.inside {
		at = "/mnt"
	}
	return k.hook(specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin", "MARKS=" + at}})
}

func (k *hookKind) hook(h specs.Hook) func(*specs.Spec) {
	return func(s *specs.Spec) {
		if s.Hooks == nil {
			s.Hooks = &specs.Hooks{}
		}
		list := k.of(s.Hooks)
		*list = append(*list, h)
	}
}

// hostScript is a hook that only the host has, and that leaves a mark.
func hostScript(marks, mark string) specs.Hook {
	script := filepath.Join(marks, mark+".sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n: >"+filepath.Join(marks, mark)+"\n"), 0o755); err != nil {
		panic(err)
	}
	return specs.Hook{Path: script}
}

// whole runs a container from create to delete, and says which step failed first.
func (x *trial) whole(edit func(*specs.Spec), args ...string) (name, failed string) {
	name = id(x.T)
	steps := []func() bool{
		func() bool { return x.create(name, bundle(x.T, edit, args...)).Code == 0 },
		func() bool { return x.do("start", name).Code == 0 },
		func() bool { x.ended(name); return true },
		func() bool { return x.do("delete", name).Code == 0 },
	}
	for i, step := range steps {
		if !step() {
			return name, []string{"create", "start", "end", "delete"}[i]
		}
	}
	return name, ""
}

// hookRules are config.md's "POSIX-platform Hooks", and runtime.md's about them.
func hookRules() []rule {
	const all = "config.md, POSIX-platform Hooks"
	const life = "runtime.md, Lifecycle"
	rules := []rule{
		{name: "hooks_order_of_kinds", in: life, says: "The prestart hooks MUST be invoked by the runtime.", left: func(x *trial, name, marks string) {
			var got []string
			for word := range strings.FieldsSeq(x.read(filepath.Join(marks, "order"))) {
				if kind, _, _ := strings.Cut(word, "-"); !slices.Contains(got, kind) {
					got = append(got, kind)
				}
			}
			// The program is on its way when the poststart hooks run, no more.
			g, want := strings.Join(got, " "), "prestart createRuntime createContainer startContainer program poststart poststop"
			if g != want && g != strings.Replace(want, "program poststart", "poststart program", 1) {
				x.errorf("the order is %q, want %q", got, want)
			}
		}},
		{name: "hooks_prestart_before_createRuntime", in: "config.md, Prestart", says: "The prestart hooks MUST be called before the createRuntime hooks.", steps: func(x *trial) {
			marks := x.marks()
			x.created(edits(hookKinds[1].add(marks, "echo createRuntime >>$MARKS/order"), hookKinds[0].add(marks, "echo prestart >>$MARKS/order")), "true")
			if got := x.read(filepath.Join(marks, "order")); got != "prestart\ncreateRuntime\n" {
				x.errorf("the order is %q", got)
			}
		}},
		{name: "hooks_createContainer_after_createRuntime", in: "config.md, CreateContainer Hooks", says: "The createContainer hooks MUST be called after the createRuntime hooks.", steps: func(x *trial) {
			marks := x.marks()
			x.created(edits(hookKinds[2].add(marks, "echo createContainer >>$MARKS/order"), hookKinds[1].add(marks, "echo createRuntime >>$MARKS/order")), "true")
			if got := x.read(filepath.Join(marks, "order")); got != "createRuntime\ncreateContainer\n" {
				x.errorf("the order is %q", got)
			}
		}},
		{name: "hooks_startContainer_before_program", in: "config.md, StartContainer Hooks", says: "The startContainer hooks MUST be called before the user-specified process is executed as part of the start operation.", steps: func(x *trial) {
			marks := x.marks()
			name := x.created(edits(shared(marks), hookKinds[3].add(marks, "echo hook >>$MARKS/order")), "sh", "-c", "echo program >>/mnt/order")
			if x.marked(marks, "order") {
				x.errorf("the hook is called before start")
			}
			x.must("start", name)
			x.ended(name)
			if got := x.read(filepath.Join(marks, "order")); got != "hook\nprogram\n" {
				x.errorf("the order is %q", got)
			}
		}},
		{name: "hooks_poststart_before_start_returns", in: "config.md, Poststart", says: "The poststart hooks MUST be called after the user-specified process is executed but before the start operation returns.", steps: func(x *trial) {
			marks := x.marks()
			name := x.created(hookKinds[4].add(marks, "touch $MARKS/hook"), "sleep", "1000")
			if x.marked(marks, "hook") {
				x.errorf("the hook is called before start")
			}
			x.must("start", name)
			if !x.marked(marks, "hook") {
				x.errorf("the hook is not called by start")
			}
		}},
		{name: "hooks_poststart_after_program", in: "config.md, Poststart", says: "The poststart hooks MUST be called after the user-specified process is executed but before the start operation returns.", steps: func(x *trial) {
			// The hook waits for what only the program can do.
			marks := x.marks()
			x.started(edits(shared(marks), hookKinds[4].add(marks, "for i in $(seq 600); do [ -e $MARKS/program ] && exit 0; sleep 0.1; done; exit 1")), "sh", "-c", "touch /mnt/program; sleep 1000")
		}},
		{name: "hooks_poststop_before_delete_returns", in: "config.md, Poststop", says: "The poststop hooks MUST be called after the container is deleted but before the delete operation returns.", steps: func(x *trial) {
			marks := x.marks()
			name := x.started(hookKinds[5].add(marks, "touch $MARKS/hook"), "true")
			x.ended(name)
			if x.marked(marks, "hook") {
				x.errorf("the hook is called before delete")
			}
			x.must("delete", name)
			if !x.marked(marks, "hook") {
				x.errorf("the hook is not called by delete")
			}
		}},
		{name: "hooks_poststop_after_resources", in: life, says: "The container MUST be destroyed by undoing the steps performed during create phase (step 2).", steps: func(x *trial) {
			// When they are called there is no control group of the container's any more.
			marks := x.marks()
			name := x.started(hookKinds[5].add(marks, `id=$(grep -o '"id": *"[^"]*"' | cut -d'"' -f4); find /sys/fs/cgroup -type d -name "*$id*" >$MARKS/groups`), "true")
			x.ended(name)
			x.must("delete", name)
			if left := x.read(filepath.Join(marks, "groups")); left != "" {
				x.errorf("when the poststop hooks run there are %s", left)
			}
		}},
		{name: "hooks_poststop_once", in: "config.md, Poststop", says: "Cleanup or debugging functions are examples of such a hook.", steps: func(x *trial) {
			marks := x.marks()
			name := x.started(hookKinds[5].add(marks, "echo >>$MARKS/hook"), "sleep", "1000")
			x.must("delete", "--force", name)
			x.fails("delete", name)
			if n := len(x.read(filepath.Join(marks, "hook"))); n != 1 {
				x.errorf("the hook ran %d times", n)
			}
		}},
		{name: "hooks_poststop_failure", in: life, says: "If any poststop hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle continue as if the hook had succeeded.", steps: func(x *trial) {
			marks := x.marks()
			k := &hookKinds[5]
			name, failed := x.whole(edits(k.add(marks, "touch $MARKS/one; exit 3"), k.add(marks, "touch $MARKS/two")), "true")
			if failed != "" {
				x.errorf("%s fails", failed)
			}
			if !x.marked(marks, "one") || !x.marked(marks, "two") {
				x.errorf("not all hooks ran")
			}
			x.fails("state", name)
		}},
		{name: "hooks_poststop_warning", in: "runtime.md, Warnings", says: "Unless otherwise stated, logging a warning does not change the flow of the operation; it MUST continue as if the warning had not been logged.", steps: func(x *trial) {
			k := &hookKinds[5]
			name := x.started(k.add("", "exit 3"), "true")
			x.ended(name)
			r := x.do("delete", name)
			if log := r.Err + x.p.logged(); r.Code != 0 || !strings.Contains(log, "poststop") {
				x.errorf("no warning: %s%s", r, log)
			}
		}},
		{name: "hooks_unknown_kind", in: "config.md, Extensibility", says: "Runtimes MAY log unknown properties but MUST otherwise ignore them.", raw: func(c map[string]any) {
			c["hooks"] = map[string]any{"afterwards": []any{map[string]any{"path": "/bin/false"}}}
		}, look: "echo runs", sees: "runs"},
		{name: "hooks_prestart_namespaces", in: "config.md, Prestart", says: "On Linux, for example, they are called after the container namespaces are created, so they provide an opportunity to customize the container (e.g. the network namespace could be specified in this hook).", steps: func(x *trial) {
			marks := x.marks()
			x.created(hookKinds[0].add(marks, `pid=$(grep -o '"pid": *[0-9]*' | grep -o '[0-9]*'); readlink /proc/$pid/ns/net >$MARKS/its; readlink /proc/self/ns/net >$MARKS/ours`), "true")
			if its, ours := x.read(filepath.Join(marks, "its")), x.read(filepath.Join(marks, "ours")); its == ours || !strings.HasPrefix(its, "net:") {
				x.errorf("the container's network namespace is %q, the host's %q", its, ours)
			}
		}},
		{name: "hooks_createRuntime_namespaces", in: "config.md, CreateRuntime Hooks", says: "On Linux, for example, they are called after the container namespaces are created, so they provide an opportunity to customize the container (e.g. the network namespace could be specified in this hook).", steps: func(x *trial) {
			marks := x.marks()
			x.created(hookKinds[1].add(marks, `pid=$(grep -o '"pid": *[0-9]*' | grep -o '[0-9]*'); readlink /proc/$pid/ns/net >$MARKS/its; readlink /proc/self/ns/net >$MARKS/ours`), "true")
			if its, ours := x.read(filepath.Join(marks, "its")), x.read(filepath.Join(marks, "ours")); its == ours || !strings.HasPrefix(its, "net:") {
				x.errorf("the container's network namespace is %q, the host's %q", its, ours)
			}
		}},
		{name: "hooks_startContainer_inside", in: "config.md, StartContainer Hooks", says: "The startContainer hooks' path MUST resolve in the container namespace.", steps: func(x *trial) {
			// acts is in the container's root alone.
			marks := x.marks()
			if _, failed := x.whole(edits(shared(marks), hookKinds[3].hook(specs.Hook{Path: "/bin/acts", Args: []string{"acts", "call", "39"}})), "true"); failed != "" {
				x.errorf("%s fails", failed)
			}
		}},
		{name: "hooks_state_pid_inside", in: "runtime.md, State", says: "For hooks executed in the container namespace, it is the pid as seen by the container.", left: func(x *trial, name, marks string) {
			if s := x.stateIn(filepath.Join(marks, "startContainer-state")); s.Pid != 1 {
				x.errorf("the pid is %d, want 1", s.Pid)
			}
		}},
		{name: "hooks_state_pid_outside", in: "runtime.md, State", says: "For hooks executed in the runtime namespace, it is the pid as seen by the runtime.", steps: func(x *trial) {
			marks := x.marks()
			name := x.created(hookKinds[1].add(marks, "cat >$MARKS/state"), "true")
			if s, now := x.stateIn(filepath.Join(marks, "state")), x.state(name); s.Pid != now.Pid || s.Pid == 0 {
				x.errorf("the pid is %d, want %d", s.Pid, now.Pid)
			}
		}},
		{name: "hooks_argv0", in: all, says: "args (array of strings, OPTIONAL) with the same semantics as IEEE Std 1003.1-2008 execv's argv.", steps: func(x *trial) {
			marks := x.marks()
			x.created(hookKinds[1].hook(specs.Hook{Path: "/bin/sh", Args: []string{"a name", "-c", "tr '\\0' '|' </proc/self/cmdline >" + marks + "/args; echo $0 >>" + marks + "/args; exit 0", "zero"}}), "true")
			if got := x.read(filepath.Join(marks, "args")); !strings.HasSuffix(got, "zero\n") {
				x.errorf("the arguments are %q", got)
			}
		}},
		{name: "hooks_no_args", in: all, says: "path (string, REQUIRED) with similar semantics to IEEE Std 1003.1-2008 execv's path.", steps: func(x *trial) {
			marks := x.marks()
			x.created(hookKinds[1].hook(hostScript(marks, "ran")), "true")
			if !x.marked(marks, "ran") {
				x.errorf("a hook without args does not run")
			}
		}},
		{name: "hooks_env", in: all, says: "env (array of strings, OPTIONAL) with the same semantics as IEEE Std 1003.1-2008's environ.", steps: func(x *trial) {
			marks := x.marks()
			x.created(hookKinds[1].hook(specs.Hook{Path: "/bin/cp", Args: []string{"cp", "/proc/self/environ", marks + "/env"}, Env: []string{"A=b c", "EMPTY="}}), "true")
			if got := x.read(filepath.Join(marks, "env")); got != "A=b c\x00EMPTY=\x00" {
				x.errorf("the environment is %q", got)
			}
		}},
		{name: "hooks_no_path", in: all, says: "path (string, REQUIRED) with similar semantics to IEEE Std 1003.1-2008 execv's path.", edit: hookKinds[1].hook(specs.Hook{Args: []string{"true"}}), refused: []string{"hooks.createRuntime[0].path"}},
		{name: "hooks_timeout_in_time", in: all, says: "timeout (int, OPTIONAL) is the number of seconds before aborting the hook.", steps: func(x *trial) {
			marks, long := x.marks(), 60
			x.created(hookKinds[1].hook(specs.Hook{Path: "/usr/bin/touch", Args: []string{"touch", marks + "/ran"}, Timeout: &long}), "true")
			if !x.marked(marks, "ran") {
				x.errorf("the hook has not run")
			}
		}},
	}
	fail := map[string]string{
		"prestart":        "If any prestart hook fails, the runtime MUST generate an error, stop the container, and continue the lifecycle at step 12.",
		"createRuntime":   "If any createRuntime hook fails, the runtime MUST generate an error, stop the container, and continue the lifecycle at step 12.",
		"createContainer": "If any createContainer hook fails, the runtime MUST generate an error, stop the container, and continue the lifecycle at step 12.",
		"startContainer":  "If any startContainer hook fails, the runtime MUST generate an error, stop the container, and continue the lifecycle at step 12.",
		"poststart":       "If any poststart hook fails, the runtime MUST generate an error, stop the container, and continue the lifecycle at step 12.",
	}
	for i := range hookKinds {
		k := &hookKinds[i]
		its := func(marks, what string) string { return filepath.Join(marks, k.name+"-"+what) }
		order := func(marks string) func(*specs.Spec) {
			edit := k.add(marks, "cat >$MARKS/"+k.name+"-state; for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done >$MARKS/"+k.name+"-namespaces; hostname >$MARKS/"+k.name+"-name; echo "+k.name+"-0 >>$MARKS/order")
			for n := range 2 {
				edit = edits(edit, k.add(marks, fmt.Sprintf("echo %s-%d >>$MARKS/order", k.name, n+1)))
			}
			return edit
		}
		annotated := func(s *specs.Spec) { s.Annotations = map[string]string{"com.example.key": "value"} }
		rules = append(rules,
			rule{name: "hooks_" + k.name + "_state", in: all, says: "The state of the container MUST be passed to hooks over stdin so that they may do work appropriate to the current state of the container.", edit: annotated, left: func(x *trial, name, marks string) {
				x.adheres("state-schema.json", x.read(its(marks, "state")))
				s := x.stateIn(its(marks, "state"))
				if s.ID != name || s.Bundle == "" || s.Version == "" || s.Annotations["com.example.key"] != "value" {
					x.errorf("the state is %+v", s)
				}
			}},
			rule{name: "hooks_" + k.name + "_status", in: "runtime.md, State", says: "status (string, REQUIRED) is the runtime state of the container.", left: func(x *trial, name, marks string) {
				if s := x.stateIn(its(marks, "state")); s.Status != k.status {
					x.errorf("the status is %s, want %s", s.Status, k.status)
				}
			}},
			rule{name: "hooks_" + k.name + "_order", in: all, says: "Hooks MUST be called in the listed order.", leave: order, left: func(x *trial, name, marks string) {
				var got []string
				for word := range strings.FieldsSeq(x.read(filepath.Join(marks, "order"))) {
					if kind, n, _ := strings.Cut(word, "-"); kind == k.name {
						got = append(got, n)
					}
				}
				if strings.Join(got, " ") != "0 1 2" {
					x.errorf("the order is %q", got)
				}
			}},
			rule{name: "hooks_" + k.name + "_relative", in: all, says: "This specification extends the IEEE standard in that path MUST be absolute.", edit: k.hook(specs.Hook{Path: "bin/true"}), refused: []string{"hooks." + k.name + "[0].path", "bin/true"}},
		)
		if k.inside {
			rules = append(rules, rule{name: "hooks_" + k.name + "_namespace", in: "config.md, " + k.section, says: "The startContainer hooks MUST be executed in the container namespace.", left: func(x *trial, name, marks string) {
				if got := x.read(its(marks, "name")); got != "box\n" {
					x.errorf("its host's name is %q", got)
				}
			}})
		} else if k.name == "createContainer" {
			rules = append(rules, rule{name: "hooks_createContainer_namespace", in: "config.md, CreateContainer Hooks", says: "The createContainer hooks MUST be executed in the container namespace.", steps: func(x *trial) {
				marks := x.marks()
				name := x.created(k.add(marks, "for n in net ipc uts; do readlink /proc/self/ns/$n; done >$MARKS/its"), "true")
				pid := x.state(name).Pid
				var want string
				for _, n := range []string{"net", "ipc", "uts"} {
					at, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, n))
					if err != nil {
						x.Fatal(err)
					}
					want += at + "\n"
				}
				if got := x.read(filepath.Join(marks, "its")); got != want {
					x.errorf("its namespaces are\n%swant\n%s", got, want)
				}
			}}, rule{name: "hooks_createContainer_path", in: "config.md, CreateContainer Hooks", says: "The createContainer hooks' path MUST resolve in the runtime namespace.", steps: func(x *trial) {
				marks := x.marks()
				x.created(k.hook(hostScript(marks, "ran")), "true")
				if !x.marked(marks, "ran") {
					x.errorf("the hook has not run")
				}
			}})
		} else {
			rules = append(rules, rule{name: "hooks_" + k.name + "_namespace", in: "config.md, " + k.section, says: "The " + k.name + " hooks MUST be executed in the runtime namespace.", left: func(x *trial, name, marks string) {
				var want string
				for _, n := range []string{"net", "ipc", "uts", "pid", "mnt"} {
					at, err := os.Readlink("/proc/self/ns/" + n)
					if err != nil {
						x.Fatal(err)
					}
					want += at + "\n"
				}
				got := x.read(its(marks, "namespaces"))
				if !x.ours() { // who has mounts of its own (control)
					got, want = withoutMounts(got), withoutMounts(want)
				}
				if got != want {
					x.errorf("its namespaces are\n%swant\n%s", got, want)
				}
			}}, rule{name: "hooks_" + k.name + "_path", in: "config.md, " + k.section, says: "The " + k.name + " hooks' path MUST resolve in the runtime namespace.", leave: func(marks string) func(*specs.Spec) {
				return k.hook(hostScript(marks, k.name+"-path"))
			}, left: func(x *trial, name, marks string) {
				if !x.marked(marks, k.name+"-path") {
					x.errorf("the hook has not run")
				}
			}})
		}
		for _, seconds := range []int{-i % 2} { // 0 or -1
			rules = append(rules, rule{name: fmt.Sprintf("hooks_%s_timeout_%d", k.name, seconds), in: all, says: "If set, timeout MUST be greater than zero.",
				edit: k.hook(specs.Hook{Path: "/bin/true", Timeout: &seconds}), refused: []string{"hooks." + k.name + "[0].timeout"}})
		}
		if k.name == "poststop" {
			continue
		}
		verb := "create"
		if k.name == "startContainer" || k.name == "poststart" {
			verb = "start"
		}
		// The first hook fails: the second is not called, the container is no more, and the
		// poststop hooks have run.
		failing := func(x *trial, broken specs.Hook) {
			marks := x.marks()
			edit := edits(shared(marks), k.hook(broken), k.add(marks, "touch $MARKS/second"), hookKinds[5].add(marks, "touch $MARKS/poststop"))
			name, failed := x.whole(edit, "sh", "-c", "touch /mnt/program; sleep 1000")
			if failed != verb {
				x.errorf("%q fails, want %s to", failed, verb)
			}
			if x.marked(marks, "second") {
				x.errorf("the next hook is called")
			}
			if k.name != "poststart" && x.marked(marks, "program") {
				x.errorf("the program has run")
			}
			if r := x.do("state", name); r.Code == 0 {
				x.errorf("the container is not destroyed: %s", r.Out)
			}
			if !x.marked(marks, "poststop") {
				x.errorf("the poststop hooks are not called")
			}
		}
		rules = append(rules,
			rule{name: "hooks_" + k.name + "_failure", in: life, says: fail[k.name], steps: func(x *trial) {
				failing(x, specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 3"}})
			}},
		)
		if k.name != "createRuntime" && k.name != "startContainer" {
			continue // one of each way to run them is enough
		}
		rules = append(rules,
			rule{name: "hooks_" + k.name + "_absent", in: life, says: fail[k.name], steps: func(x *trial) {
				failing(x, specs.Hook{Path: "/no/such/hook"})
			}},
			rule{name: "hooks_" + k.name + "_timeout", in: all, says: "timeout (int, OPTIONAL) is the number of seconds before aborting the hook.", steps: func(x *trial) {
				one := 1
				failing(x, specs.Hook{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &one})
			}},
		)
	}
	return rules
}

func (x *trial) stateIn(path string) (s specs.State) {
	if err := json.Unmarshal([]byte(x.read(path)), &s); err != nil {
		x.fatalf("the state that the hook got: %v", err)
	}
	return s
}

// withoutMounts takes the mount namespace, which is the last, from a list of namespaces.
func withoutMounts(list string) string {
	before, _, _ := strings.Cut(list, "mnt:")
	return before
}
