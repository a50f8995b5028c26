package oci

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// lifecycleRules are runtime.md's and bundle.md's.
func lifecycleRules() []rule {
	const (
		state, life, create = "runtime.md, State", "runtime.md, Lifecycle", "runtime.md, Create"
		start, kill, del    = "runtime.md, Start", "runtime.md, Kill", "runtime.md, Delete"
		query               = "runtime.md, Query State"
		other               = "Additional values MAY be defined by the runtime, however, they MUST be used to represent new runtime states not defined above."
		annotations         = "If no annotations were provided then this property MAY either be absent or an empty map."
		notCreated          = "Attempting to start a container that is not created MUST have no effect on the container and MUST generate an error."
		notAlive            = "Attempting to send a signal to a container that is neither created nor running MUST have no effect on the container and MUST generate an error."
		badID               = "If the ID provided is not unique across all containers within the scope of the runtime, or is not valid in any other way, the implementation MUST generate an error and a new container MUST NOT be created."
	)
	sleeper := func(x *trial) string { return x.started(nil, "sleep", "1000") }
	annotated := func(s *specs.Spec) {
		s.Annotations = map[string]string{"com.example.key": "value", "com.example.none": ""}
	}
	rules := []rule{
		{name: "state_version", in: state, says: "ociVersion (string, REQUIRED) is version of the Open Container Initiative Runtime Specification with which the state complies.", watch: func(x *trial, name string) {
			if v := x.state(name).Version; !strings.HasPrefix(v, "1.") {
				x.errorf("ociVersion is %q", v)
			}
		}},
		{name: "state_id", in: state, says: "id (string, REQUIRED) is the container's ID.", watch: func(x *trial, name string) {
			if got := x.state(name).ID; got != name {
				x.errorf("id is %q, want %q", got, name)
			}
		}},
		{name: "state_running", in: state, says: "running: the container process has executed the user-specified program but has not exited", watch: func(x *trial, name string) {
			x.status(name, specs.StateRunning)
		}},
		{name: "state_pid_running", in: state, says: "pid (int, REQUIRED when status is created or running on Linux, OPTIONAL on other platforms) is the ID of the container process.", watch: func(x *trial, name string) {
			if pid := x.state(name).Pid; pid <= 0 || !alive(pid) {
				x.errorf("pid is %d", pid)
			}
		}},
		{name: "state_schema", in: state, says: "When serialized in JSON, the format MUST adhere to the JSON Schema schema/state-schema.json", watch: func(x *trial, name string) {
			x.adheres("state-schema.json", x.must("state", name))
		}},
		{name: "state_annotations", in: state, says: "annotations (map, OPTIONAL) contains the list of annotations associated with the container.", batch: "annotated", edit: annotated, watch: func(x *trial, name string) {
			a := x.state(name).Annotations
			if v, ok := a["com.example.none"]; a["com.example.key"] != "value" || !ok || v != "" {
				x.errorf("annotations are %v", a)
			}
		}},
		{name: "state_schema_annotated", in: state, says: "When serialized in JSON, the format MUST adhere to the JSON Schema schema/state-schema.json", batch: "annotated", watch: func(x *trial, name string) {
			x.adheres("state-schema.json", x.must("state", name))
		}},
		{name: "state_no_annotations", in: state, says: annotations, watch: func(x *trial, name string) {
			if a := x.state(name).Annotations; len(a) != 0 {
				x.errorf("annotations are %v", a)
			}
		}},
		{name: "state_created", in: state, says: "created: the runtime has finished the create operation (after step 2 in the lifecycle), and the container process has neither exited nor executed the user-specified program", steps: func(x *trial) {
			name := x.created(nil, "true")
			x.status(name, specs.StateCreated)
			if pid := x.state(name).Pid; pid <= 0 || !alive(pid) {
				x.errorf("pid is %d", pid)
			}
			x.adheres("state-schema.json", x.must("state", name))
		}},
		{name: "state_stopped", in: state, says: "stopped: the container process has exited (step 10 in the lifecycle)", steps: func(x *trial) {
			name := x.started(nil, "true")
			x.ended(name)
			x.status(name, specs.StateStopped)
			x.adheres("state-schema.json", x.must("state", name))
		}},
		{name: "state_bundle", in: state, says: "bundle (string, REQUIRED) is the absolute path to the container's bundle directory.", steps: func(x *trial) {
			// Given by a relative path it is absolute all the same.
			dir, name := bundle(x.T, nil, "true"), id(x.T)
			here, err := os.Getwd()
			if err != nil {
				x.Fatal(err)
			}
			relative, err := filepath.Rel(here, dir)
			if err != nil {
				x.Fatal(err)
			}
			if r := x.create(name, relative); r.Code != 0 {
				x.fatalf("create: %s", r)
			}
			if got := x.state(name).Bundle; got != dir {
				x.errorf("bundle is %q, want %q", got, dir)
			}
		}},
		{name: "state_paused", in: state, says: other, steps: func(x *trial) {
			name := sleeper(x)
			x.must("pause", name)
			x.status(name, "paused")
			x.must("resume", name)
			x.status(name, specs.StateRunning)
		}},

		{name: "config_read_once", in: life, says: "Any updates to config.json after this step MUST NOT affect the container.", steps: func(x *trial) {
			marks := x.marks()
			dir, name := bundle(x.T, shared(marks), "touch", "/mnt/first"), id(x.T)
			if r := x.create(name, dir); r.Code != 0 {
				x.fatalf("create: %s", r)
			}
			x.rewrite(dir, func(c map[string]any) {
				c["process"].(map[string]any)["args"] = []string{"touch", "/mnt/second"}
			})
			x.must("start", name)
			x.ended(name)
			if !x.marked(marks, "first") || x.marked(marks, "second") {
				x.errorf("a change of config.json after create has an effect")
			}
		}},
		{name: "config_gone_after_create", in: create, says: "Any changes made to the config.json file after this operation will not have an effect on the container.", steps: func(x *trial) {
			marks := x.marks()
			dir, name := bundle(x.T, shared(marks), "touch", "/mnt/first"), id(x.T)
			if r := x.create(name, dir); r.Code != 0 {
				x.fatalf("create: %s", r)
			}
			if err := os.Remove(filepath.Join(dir, "config.json")); err != nil {
				x.Fatal(err)
			}
			x.must("start", name)
			x.ended(name)
			if !x.marked(marks, "first") {
				x.errorf("the program has not run")
			}
			x.must("delete", name)
		}},
		{name: "create_does_not_run", in: life, says: "While the resources requested in the config.json MUST be created, the user-specified program (from process) MUST NOT be run at this time.", steps: func(x *trial) {
			marks := x.marks()
			name := x.created(shared(marks), "touch", "/mnt/ran")
			x.status(name, specs.StateCreated)
			if x.marked(marks, "ran") {
				x.errorf("create runs the program")
			}
			x.must("kill", name, "KILL")
			x.ended(name)
			if x.marked(marks, "ran") {
				x.errorf("the program of a container that was never started has run")
			}
		}},
		{name: "start_runs", in: life, says: "The runtime MUST run the user-specified program, as specified by process.", steps: func(x *trial) {
			marks := x.marks()
			name := x.started(shared(marks), "touch", "/mnt/ran")
			x.ended(name)
			if !x.marked(marks, "ran") {
				x.errorf("start does not run the program")
			}
		}},
		{name: "start_args_at_start", in: create, says: "process.args MUST NOT be applied until triggered by the start operation.", steps: func(x *trial) {
			marks := x.marks()
			name := x.created(shared(marks), "sh", "-c", "touch /mnt/ran; sleep 1000")
			if x.marked(marks, "ran") {
				x.errorf("args are applied by create")
			}
			x.must("start", name)
			x.status(name, specs.StateRunning)
		}},
		{name: "create_cannot_be_met", in: life, says: "If the runtime is unable to create the environment specified in the config.json, it MUST generate an error.",
			edit: func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp/x", Type: "no-such-fs", Source: "none"})
			}, refused: []string{"mounts[5].type", "no-such-fs"}},
		{name: "create_property_not_applied", in: create, says: "If the runtime cannot apply a property as specified in the configuration, it MUST generate an error and a new container MUST NOT be created.",
			edit:    func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.no_such_knob": "1"} },
			refused: []string{"kernel.no_such_knob"}},
		{name: "failed_create_leaves_nothing", in: "runtime.md, Errors", says: "Unless otherwise stated, generating an error MUST leave the state of the environment as if the operation were never attempted", steps: func(x *trial) {
			name := id(x.T)
			dir := bundle(x.T, func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
			}, "true")
			if r := x.create(name, dir); r.Code == 0 {
				x.errorf("create succeeds in spite of its hook")
			}
			x.fails("state", name)
			if left := cgroupsOf(name); len(left) != 0 {
				x.errorf("control groups are left: %q", left)
			}
			if _, err := os.Stat(filepath.Join(x.p.root, name)); err == nil {
				x.errorf("its state directory is left")
			}
			if r := x.create(name, bundle(x.T, nil, "true")); r.Code != 0 {
				x.errorf("the ID cannot be used again: %s", r)
			}
		}},

		{name: "query_no_id", in: query, says: "This operation MUST generate an error if it is not provided the ID of a container.", steps: func(x *trial) { x.fails("state") }},
		{name: "query_unknown", in: query, says: "Attempting to query a container that does not exist MUST generate an error.", steps: func(x *trial) { x.fails("state", id(x.T)) }},
		{name: "query_deleted", in: query, says: "Attempting to query a container that does not exist MUST generate an error.", steps: func(x *trial) {
			name := x.started(nil, "true")
			x.ended(name)
			x.must("delete", name)
			x.fails("state", name)
		}},
		{name: "query_returns_state", in: query, says: "This operation MUST return the state of a container as specified in the State section.", watch: func(x *trial, name string) {
			if s := x.state(name); s.ID == "" || s.Version == "" || s.Status == "" || s.Bundle == "" {
				x.errorf("the state is %+v", s)
			}
		}},

		{name: "create_no_id", in: create, says: "This operation MUST generate an error if it is not provided a path to the bundle and the container ID to associate with the container.", steps: func(x *trial) {
			x.fails("create", "--bundle", bundle(x.T, nil, "true"))
		}},
		{name: "create_no_bundle", in: create, says: "This operation MUST generate an error if it is not provided a path to the bundle and the container ID to associate with the container.", steps: func(x *trial) {
			x.fails("create", "--bundle", filepath.Join(x.TempDir(), "none"), id(x.T))
		}},
		{name: "create_twice", in: create, says: badID, steps: func(x *trial) {
			name := sleeper(x)
			before := x.state(name)
			if r := x.create(name, bundle(x.T, nil, "true")); r.Code == 0 || x.ours() && !strings.Contains(r.Err, name) {
				x.errorf("a second create: %s", r)
			}
			if after := x.state(name); after.Pid != before.Pid || after.Status != specs.StateRunning || after.Bundle != before.Bundle {
				x.errorf("it was %+v and is %+v", before, after)
			}
		}},
		{name: "create_over_stopped", in: create, says: badID, steps: func(x *trial) {
			name := x.started(nil, "true")
			x.ended(name)
			if r := x.create(name, bundle(x.T, nil, "true")); r.Code == 0 {
				x.errorf("a second create succeeds where the first has stopped")
			}
			x.status(name, specs.StateStopped)
		}},
		{name: "create_runs_another", in: create, says: "This operation MUST create a new container.", steps: func(x *trial) {
			one, two := sleeper(x), sleeper(x)
			if x.state(one).Pid == x.state(two).Pid {
				x.errorf("two containers are one")
			}
			x.must("kill", one, "KILL")
			x.ended(one)
			x.status(two, specs.StateRunning)
		}},

		{name: "start_no_id", in: start, says: "This operation MUST generate an error if it is not provided the container ID.", steps: func(x *trial) { x.fails("start") }},
		{name: "start_unknown", in: start, says: notCreated, steps: func(x *trial) { x.fails("start", id(x.T)) }},
		{name: "start_running", in: start, says: notCreated, steps: func(x *trial) {
			name := sleeper(x)
			before := x.state(name).Pid
			x.fails("start", name)
			x.status(name, specs.StateRunning)
			if after := x.state(name).Pid; after != before {
				x.errorf("its process was %d and is %d", before, after)
			}
		}},
		{name: "start_stopped", in: start, says: notCreated, steps: func(x *trial) {
			marks := x.marks()
			name := x.started(shared(marks), "sh", "-c", "echo >>/mnt/runs")
			x.ended(name)
			x.fails("start", name)
			x.status(name, specs.StateStopped)
			if runs := x.read(filepath.Join(marks, "runs")); runs != "\n" {
				x.errorf("it ran %d times", len(runs))
			}
		}},
		{name: "start_paused", in: start, says: notCreated, steps: func(x *trial) {
			name := sleeper(x)
			x.must("pause", name)
			x.fails("start", name)
			x.status(name, "paused")
		}},
		{name: "start_without_process", in: start, says: "This operation MUST generate an error if process was not set.", steps: func(x *trial) {
			name := id(x.T)
			dir := bundle(x.T, func(s *specs.Spec) { s.Process = nil })
			if r := x.create(name, dir); r.Code == 0 {
				x.fails("start", name)
			} // what create has refused cannot be started
		}},
		{name: "start_runs_as_specified", in: start, says: "This operation MUST run the user-specified program as specified by process.", steps: func(x *trial) {
			marks := x.marks()
			name := x.started(edits(shared(marks), func(s *specs.Spec) {
				s.Process.Env, s.Process.Cwd = []string{"PATH=/bin", "WORD=x y"}, "/etc"
			}), "sh", "-c", `echo "$0|$1|$WORD|$PWD" >/mnt/seen`, "zero", "a  b")
			x.ended(name)
			if got := x.read(filepath.Join(marks, "seen")); got != "zero|a  b|x y|/etc\n" {
				x.errorf("it saw %q", got)
			}
		}},

		{name: "kill_no_id", in: kill, says: "This operation MUST generate an error if it is not provided the container ID.", steps: func(x *trial) { x.fails("kill") }},
		{name: "kill_unknown", in: kill, says: notAlive, steps: func(x *trial) { x.fails("kill", id(x.T), "KILL") }},
		{name: "kill_stopped", in: kill, says: notAlive, steps: func(x *trial) {
			name := x.started(nil, "true")
			x.ended(name)
			for _, signal := range []string{"KILL", "TERM", "0"} {
				if signal != "0" {
					x.fails("kill", name, signal)
				}
			}
			x.status(name, specs.StateStopped)
		}},
		{name: "kill_created", in: kill, says: "This operation MUST send the specified signal to the container process.", steps: func(x *trial) {
			name := x.created(nil, "sleep", "1000")
			x.must("kill", name, "KILL")
			x.ended(name)
			x.fails("start", name)
		}},
		{name: "kill_created_term", in: kill, says: "This operation MUST send the specified signal to the container process.", steps: func(x *trial) {
			// PID 1 of a namespace is spared what it has no handler for: it has none yet.
			marks := x.marks()
			name := x.created(shared(marks), "touch", "/mnt/ran")
			x.must("kill", name, "CONT")
			x.status(name, specs.StateCreated)
			x.must("start", name)
			x.ended(name)
			if !x.marked(marks, "ran") {
				x.errorf("after a signal it does not run")
			}
		}},
		{name: "kill_signals", in: kill, says: "This operation MUST send the specified signal to the container process.", steps: func(x *trial) {
			marks := x.marks()
			name := x.started(shared(marks), "sh", "-c",
				`for s in HUP INT QUIT USR1 USR2 TERM WINCH CONT; do trap "touch /mnt/$s" $s; done; touch /mnt/ready; while :; do sleep 0.01; done`)
			x.await(marks, "ready")
			for _, signal := range []string{"HUP", "SIGINT", "3", "USR1", "SIGUSR2", "TERM", "28", "CONT"} {
				x.must("kill", name, signal)
			}
			for _, sign := range []string{"HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "WINCH", "CONT"} {
				x.await(marks, sign)
			}
			x.status(name, specs.StateRunning)
		}},
		{name: "kill_default_term", in: kill, says: "This operation MUST send the specified signal to the container process.", steps: func(x *trial) {
			marks := x.marks()
			name := x.started(shared(marks), "sh", "-c", `trap "touch /mnt/TERM; exit 7" TERM; touch /mnt/ready; while :; do sleep 0.01; done`)
			x.await(marks, "ready")
			x.must("kill", name)
			x.ended(name)
			if !x.marked(marks, "TERM") {
				x.errorf("no TERM came")
			}
		}},
		{name: "kill_unknown_signal", in: kill, says: "This operation MUST send the specified signal to the container process.", watch: func(x *trial, name string) {
			x.fails("kill", name, "NOSUCH")
			x.fails("kill", name, "1000")
			x.status(name, specs.StateRunning)
		}},

		{name: "delete_no_id", in: del, says: "This operation MUST generate an error if it is not provided the container ID.", steps: func(x *trial) { x.fails("delete") }},
		{name: "delete_unknown", in: del, says: "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an error.", steps: func(x *trial) { x.fails("delete", id(x.T)) }},
		{name: "delete_running", in: del, says: "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an error.", steps: func(x *trial) {
			name := sleeper(x)
			pid := x.state(name).Pid
			x.fails("delete", name)
			x.status(name, specs.StateRunning)
			if now := x.state(name).Pid; now != pid || !alive(pid) {
				x.errorf("its process was %d and is %d", pid, now)
			}
		}},
		{name: "delete_paused", in: del, says: "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an error.", steps: func(x *trial) {
			name := sleeper(x)
			x.must("pause", name)
			x.fails("delete", name)
			x.status(name, "paused")
		}},
		{name: "delete_created", in: del, says: "Attempting to delete a container that is not stopped MUST have no effect on the container and MUST generate an error.",
			ours: "a container that was created and never started can be deleted, as with runc: engines undo a create so",
			runc: "runc deletes a created container",
			steps: func(x *trial) {
				name := x.created(nil, "true")
				x.fails("delete", name)
				x.status(name, specs.StateCreated)
			}},
		{name: "delete_resources", in: del, says: "Deleting a container MUST delete the resources that were created during the create step.", steps: func(x *trial) {
			name := x.started(nil, "true")
			x.ended(name)
			x.must("delete", name)
			if left := cgroupsOf(name); len(left) != 0 {
				x.errorf("control groups are left: %q", left)
			}
			if _, err := os.Stat(filepath.Join(x.p.root, name)); err == nil {
				x.errorf("its state directory is left")
			}
		}},
		{name: "delete_not_others", in: del, says: "Note that resources associated with the container, but not created by this container, MUST NOT be deleted.", steps: func(x *trial) {
			marks := x.marks()
			name := id(x.T)
			dir := bundle(x.T, shared(marks), "touch", "/mnt/mine")
			if r := x.create(name, dir); r.Code != 0 {
				x.fatalf("create: %s", r)
			}
			x.must("start", name)
			x.ended(name)
			x.must("delete", name)
			if !x.marked(dir, "config.json") || !x.marked(marks, "mine") {
				x.errorf("delete takes away what is not the container's")
			}
		}},
		{name: "delete_frees_id", in: del, says: "Once a container is deleted its ID MAY be used by a subsequent container.", steps: func(x *trial) {
			dir, name := bundle(x.T, nil, "true"), id(x.T)
			for range 2 {
				if r := x.create(name, dir); r.Code != 0 {
					x.fatalf("create: %s", r)
				}
				x.must("start", name)
				x.ended(name)
				x.must("delete", name)
			}
		}},
		{name: "delete_kills_the_rest", in: life, says: "The container MUST be destroyed by undoing the steps performed during create phase (step 2).", steps: func(x *trial) {
			name := x.started(nil, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
			pid := x.state(name).Pid
			x.must("kill", name, "KILL")
			x.ended(name)
			x.must("delete", name)
			if alive(pid) {
				x.errorf("process %d is left", pid)
			}
		}},

		{name: "bundle_config_required", in: "bundle.md, Container Format", says: "This REQUIRED file MUST reside in the root of the bundle directory and MUST be named config.json.", steps: func(x *trial) {
			dir, name := bundle(x.T, nil, "true"), id(x.T)
			if err := os.Rename(filepath.Join(dir, "config.json"), filepath.Join(dir, "Config.json")); err != nil {
				x.Fatal(err)
			}
			if r := x.create(name, dir); r.Code == 0 || x.ours() && !strings.Contains(r.Err, "config.json: no such file") {
				x.errorf("create without config.json: %s", r)
			}
		}},
		{name: "bundle_root_in_bundle", in: "bundle.md, Container Format", says: "container's root filesystem: the directory referenced by root.path, if that property is set in config.json.", steps: func(x *trial) {
			dir := bundle(x.T, nil, "/hello")
			x.copyRoot(dir, "rootfs")
			x.rewrite(dir, func(c map[string]any) {
				c["root"].(map[string]any)["path"] = "rootfs"
				c["process"].(map[string]any)["args"] = []string{"cat", "/etc/hostname"}
			})
			name := id(x.T)
			x.forget(name)
			if r := x.do("run", "--bundle", dir, name); r.Out != "image\n" {
				x.errorf("run: %s", r)
			}
		}},
		{name: "scope", in: "runtime.md, Scope of a Container", says: "The entity using a runtime to create a container MUST be able to use the operations defined in this specification against that same container.", steps: func(x *trial) {
			name := sleeper(x)
			x.must("state", name)
			x.must("kill", name, "KILL")
			x.ended(name)
			x.must("delete", name)
		}},
		{name: "no_further_descriptors", in: "runtime-linux.md, File descriptors", says: "By default, only the stdin, stdout and stderr file descriptors are kept open for the application by the runtime.",
			look: `ls /proc/1/fd`, sees: `0\n1\n2`, batch: "descriptors"},
		{name: "preserved_descriptors", in: "runtime-linux.md, File descriptors", says: "The runtime MAY pass additional file descriptors to the application to support features such as socket activation.", steps: func(x *trial) {
			name := id(x.T)
			x.forget(name)
			dir := bundle(x.T, nil, "sh", "-c", "cat <&3; cat <&4")
			r := x.doWith(preserved(x, "three\n", "four\n"), "run", "--preserve-fds", "2", "--bundle", dir, name)
			if r.Out != "three\nfour\n" {
				x.errorf("run: %s", r)
			}
		}},
		{name: "preserved_descriptors_of_exec", in: "runtime-linux.md, File descriptors", says: "The runtime MAY pass additional file descriptors to the application to support features such as socket activation.", watch: func(x *trial, name string) {
			r := x.doWith(preserved(x, "three\n", "four\n"), "exec", "--preserve-fds", "2", name, "sh", "-c", "cat <&3; cat <&4")
			if r.Out != "three\nfour\n" {
				x.errorf("exec: %s", r)
			}
		}},
		{name: "unpreserved_descriptors", in: "runtime-linux.md, File descriptors", says: "By default, only the stdin, stdout and stderr file descriptors are kept open for the application by the runtime.", steps: func(x *trial) {
			name := id(x.T)
			x.forget(name)
			r := x.doWith(preserved(x, "three\n"), "run", "--bundle", bundle(x.T, nil, "ls", "/proc/1/fd"), name)
			// ls itself has the directory open.
			if r.Out != "0\n1\n2\n3\n" {
				x.errorf("run: %s", r)
			}
		}},
	}
	for n, name := range map[string]string{"slash": "a/b", "dots": "..", "space": "a b", "newline": "a\nb", "empty": ""} {
		rules = append(rules, rule{name: "create_id_" + n, in: create, says: badID, steps: func(x *trial) {
			x.fails("create", "--bundle", bundle(x.T, nil, "true"), name)
		}})
	}
	for link, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		rules = append(rules, rule{name: "symlink_" + link, in: "runtime-linux.md, Dev symbolic links", says: to + " | /dev/" + link,
			look: "readlink /dev/" + link, sees: to})
	}
	return rules
}
