package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"bulkhead/test/rig"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The conformance suite: what runtime-spec demands, sentence by sentence. Each rule names
// the sentence that it was written from (TestSentences looks whether the specification has
// it), changes a configuration, and says what must come of it. TestConformance holds
// bulkhead to all of them, and as a control runc and crun (BULKHEAD_SLOW=1); a rule that
// one of them does not keep has the reason beside it.

// rule is one demand. It has one of sees, refused, watch and steps.
type rule struct {
	name string
	in   string // file and section: "config.md, Root"
	says string // the specification's words

	edit func(*specs.Spec) // of the configuration
	raw  func(map[string]any)

	// look is a script for the container's first program; what it prints, errors among
	// it, must be sees, a regular expression for the whole. Rules of one batch share a
	// container that has all of their edits; those without an edit share one too.
	look, sees string
	batch      string

	// refused demands that create fails, with these words in bulkhead's error.
	refused []string

	// watch looks from outside at a running container, which rules of a batch share.
	watch func(x *trial, name string)

	// left looks at what a container has left in a directory of the host's, whose path
	// leave gets and which is /mnt inside, after its life from create to delete. All such
	// rules share one.
	leave func(marks string) func(*specs.Spec)
	left  func(x *trial, name, marks string)

	// steps is all else.
	steps func(x *trial)

	ours string // why bulkhead does not keep it
	runc string // why runc 1.1.5 does not
	host string // what of this host keeps runc from it; "" is nothing
}

// all the rules, by what they are about.
func conformance() []rule {
	return slices.Concat(lifecycleRules(), hookRules(), configRules(), processRules(), mountRules(), linuxRules(), resourceRules(), seccompRules(), featureRules())
}

// slow are rules that make test does without: each costs a container, and what it sees
// another rule sees nearly as well. BULKHEAD_SLOW has them.
var slow = strings.Fields(`
	state_stopped config_gone_after_create query_deleted create_over_stopped create_runs_another start_args_at_start start_paused
	kill_created_term kill_default_term delete_paused delete_frees_id delete_kills_the_rest scope bundle_root_in_bundle unpreserved_descriptors
	hooks_prestart_before_createRuntime hooks_createContainer_after_createRuntime hooks_startContainer_before_program
	hooks_createRuntime_namespaces hooks_poststop_once hooks_poststop_warning hooks_state_pid_outside hooks_startContainer_inside
	hooks_argv0 hooks_no_args hooks_timeout_in_time hooks_unknown_kind
	hooks_prestart_failure hooks_createContainer_failure hooks_createRuntime_absent hooks_startContainer_absent hooks_startContainer_timeout
	version_1_0_0-rc5-dev version_1_1_0_plus_build_5 version_1_3_0 root_relative_elsewhere annotations_empty_map nulls unknown_in_seccomp
	features_min features_max process_relative_program process_path_of_env seccomp_default_errno
	propagation_slave propagation_private namespace_joined cgroup_path_consistent cgroup_path_relative namespace_ipc`)

func (r *rule) runcWhy() string { return first(r.runc, runcReasons[r.name], r.host) }

// control is a runtime that the suite itself is held against. It has mounts of its own: what
// a configuration without a mount namespace, or one whose root propagates, has it mount would
// otherwise stay in this host's tree, beneath the root that all rules share.
func control(t *testing.T, name string) *program {
	t.Helper()
	rig.Need(t, name, "unshare")
	root := filepath.Join(t.TempDir(), "root")
	return &program{name: name, args: []string{"unshare", "--mount", "--propagation=private", "--", name, "--root=" + root}, root: root}
}

func TestConformance(t *testing.T) {
	rig.NeedRoot(t)
	rules := conformance()
	rig.EachPlatform(t, func(t *testing.T, platform string) {
		judge(t, rules, func(t *testing.T) *program { return bulkhead(t, platform) }, func(r *rule) string { return r.ours })
	})
	if os.Getenv("BULKHEAD_SLOW") == "" {
		return
	}
	t.Run("runc", func(t *testing.T) {
		judge(t, rules, func(t *testing.T) *program { return control(t, "runc") }, (*rule).runcWhy)
	})
	t.Run("crun", func(t *testing.T) {
		p := control(t, "crun")
		if r := p.run(t, nil, "true"); r.Code != 0 { // 1.8.1 has no way with control groups of both versions
			t.Skipf("crun runs nothing here: %s", r)
		}
		judge(t, rules, func(t *testing.T) *program { return control(t, "crun") }, nil)
	})
}

// judge holds one runtime to the rules. Where excuse has a reason the rule must be broken:
// a reason that has gone stale is an error too.
func judge(t *testing.T, rules []rule, open func(*testing.T) *program, excuse func(*rule) string) {
	verdict := func(t *testing.T, r *rule, failures []string) {
		if excuse == nil { // only looked at
			if len(failures) > 0 {
				t.Logf("not kept: %s: “%s”\n%s", r.in, r.says, strings.Join(failures, "\n"))
			}
			return
		}
		reason := excuse(r)
		switch {
		case len(failures) > 0 && reason != "":
			t.Logf("not kept: %s\n%s", reason, strings.Join(failures, "\n"))
		case len(failures) > 0:
			t.Errorf("%s: “%s”\n%s", r.in, r.says, strings.Join(failures, "\n"))
		case reason != "":
			t.Errorf("it is kept, though it is said not to be: %s", reason)
		}
	}
	batches := map[string][]*rule{}
	for i := range rules {
		r := &rules[i]
		if os.Getenv("BULKHEAD_SLOW") == "" && slices.Contains(slow, r.name) {
			continue
		}
		if key := r.batchKey(); key != "" {
			batches[key] = append(batches[key], r)
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			x := &trial{T: t, p: open(t)}
			x.run(func() { r.alone(x) })
			verdict(t, r, x.failures)
		})
	}
	for key, batch := range batches {
		t.Run("batch_"+key, func(t *testing.T) {
			t.Parallel()
			for r, failures := range share(t, open(t), batch) {
				t.Run(r.name, func(t *testing.T) { verdict(t, r, failures) })
			}
		})
	}
}

// batchKey is what the rules that share a container with r have in common; "" is alone.
func (r *rule) batchKey() string {
	switch {
	case r.steps != nil || r.refused != nil || r.raw != nil:
		return ""
	case r.watch != nil:
		return join("watched", r.batch)
	case r.left != nil:
		return join("left", r.batch)
	case r.batch == "" && r.edit != nil:
		return ""
	}
	return join("seen", r.batch)
}

func join(kind, name string) string { return strings.TrimSuffix(kind+"_"+name, "_") }

// share tries rules in one container, and each by itself if the container cannot be had.
func share(t *testing.T, p *program, batch []*rule) map[*rule][]string {
	failures := map[*rule][]string{}
	edit := func(s *specs.Spec) {
		for _, r := range batch {
			if r.edit != nil {
				r.edit(s)
			}
		}
	}
	whole := &trial{T: t, p: p}
	whole.run(func() {
		if batch[0].left != nil {
			marks := whole.marks()
			edit := edits(edit, shared(marks))
			for _, r := range batch {
				if r.leave != nil {
					edit = edits(edit, r.leave(marks))
				}
			}
			name, failed := whole.whole(edit, "sh", "-c", "echo program >>/mnt/order")
			if failed != "" {
				whole.fatalf("%s fails: %s", failed, p.logged())
			}
			for _, r := range batch {
				x := &trial{T: t, p: p}
				x.run(func() { r.left(x, name, marks) })
				failures[r] = x.failures
			}
			return
		}
		if batch[0].watch != nil {
			name := whole.started(edit, "sleep", "1000")
			for _, r := range batch {
				x := &trial{T: t, p: p}
				x.run(func() { r.watch(x, name) })
				failures[r] = x.failures
			}
			return
		}
		for r, printed := range whole.see(edit, batch) {
			failures[r] = r.compare(printed)
		}
	})
	if len(whole.failures) == 0 {
		return failures
	}
	if len(batch) > 1 {
		t.Logf("together they fail: %s", strings.Join(whole.failures, "\n"))
		for _, r := range batch {
			for r, f := range share(t, p, []*rule{r}) {
				failures[r] = f
			}
		}
		return failures
	}
	return map[*rule][]string{batch[0]: whole.failures}
}

// alone tries a rule that has a container to itself, or none.
func (r *rule) alone(x *trial) {
	switch {
	case r.steps != nil:
		r.steps(x)
	case r.refused != nil:
		name := id(x.T)
		said := x.create(name, x.bundle(r, "true"))
		if said.Code == 0 {
			x.errorf("create succeeds")
		} else if x.ours() {
			for _, word := range r.refused {
				if !strings.Contains(said.Err, word) {
					x.errorf("the error does not name %q: %s", word, said.Err)
				}
			}
		}
		if _, err := os.Stat(filepath.Join(x.p.root, name)); err == nil {
			x.errorf("after a failed create there is a container")
		}
	default:
		for r, printed := range x.see(nil, []*rule{r}) {
			for _, f := range r.compare(printed) {
				x.errorf("%s", f)
			}
		}
	}
}

// compare judges what a look has printed.
func (r *rule) compare(printed string) []string {
	if regexp.MustCompile(`(?s)^(?:` + r.sees + `)$`).MatchString(strings.TrimSpace(printed)) {
		return nil
	}
	return []string{fmt.Sprintf("%s\nprints %q, want %q", r.look, strings.TrimSpace(printed), r.sees)}
}

// trial is one try of a rule by a runtime. It collects what fails, for some failures are
// expected.
type trial struct {
	*testing.T
	p        *program
	failures []string
	pids     map[string]int // of the containers' processes, as create wrote them down
}

// enough ends a trial early.
type enough struct{}

func (x *trial) run(f func()) {
	defer func() {
		if v := recover(); v != nil {
			if _, ok := v.(enough); !ok {
				panic(v)
			}
		}
	}()
	f()
}

func (x *trial) errorf(format string, args ...any) {
	x.failures = append(x.failures, fmt.Sprintf(format, args...))
}

func (x *trial) fatalf(format string, args ...any) {
	x.errorf(format, args...)
	panic(enough{})
}

// ours says whether bulkhead is on trial.
func (x *trial) ours() bool { return x.p.log != "" }

// do runs a verb to its end, its output going to files: a container that it leaves may
// keep them.
func (x *trial) do(args ...string) rig.Result { return x.doWith(nil, args...) }

func (x *trial) doWith(prepare func(*exec.Cmd), args ...string) rig.Result {
	x.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rig.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, x.p.args[0], append(slices.Clone(x.p.args[1:]), args...)...)
	out, errs := x.file(), x.file()
	defer out.Close()
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	if prepare != nil {
		prepare(cmd)
	}
	err := cmd.Run()
	r := rig.Result{Out: content(out), Err: content(errs)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		x.fatalf("%q hung; so far:\n%s", args, r)
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil:
		x.fatalf("%q: %v", args, err)
	}
	return r
}

// file is one without a name.
func (x *trial) file() *os.File {
	f, err := os.CreateTemp("", "conform-")
	if err != nil {
		x.Fatal(err)
	}
	os.Remove(f.Name())
	return f
}

func content(f *os.File) string {
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	return string(b)
}

// must runs a verb that has to succeed.
func (x *trial) must(args ...string) string {
	r := x.do(args...)
	if r.Code != 0 {
		x.fatalf("%q:\n%s%s", args, r, x.p.logged())
	}
	return r.Out
}

// fails runs a verb that has to fail.
func (x *trial) fails(args ...string) rig.Result {
	r := x.do(args...)
	if r.Code == 0 {
		x.errorf("%q succeeds: %s", args, r)
	}
	return r
}

// bundle makes the rule's.
func (x *trial) bundle(r *rule, args ...string) string {
	dir := bundle(x.T, r.edit, args...)
	if r.raw != nil {
		x.rewrite(dir, r.raw)
	}
	return dir
}

// rewrite changes config.json by its keys, beyond what specs.Spec can say.
func (x *trial) rewrite(dir string, change func(map[string]any)) {
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	whole := map[string]any{}
	if err == nil {
		numbers := json.NewDecoder(bytes.NewReader(text))
		numbers.UseNumber()
		err = numbers.Decode(&whole)
	}
	if err == nil {
		change(whole)
		text, err = json.Marshal(whole)
	}
	if err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		x.Fatal(err)
	}
}

// create makes a container, and deletes it in the end.
func (x *trial) create(name, dir string, flags ...string) rig.Result {
	x.forget(name)
	pid := filepath.Join(dir, "pid")
	r := x.do(append(append([]string{"create", "--bundle", dir, "--pid-file", pid}, flags...), name)...)
	if text, err := os.ReadFile(pid); err == nil && r.Code == 0 {
		if x.pids == nil {
			x.pids = map[string]int{}
		}
		x.pids[name], _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	return r
}

// forget deletes a container in the end, if there is one then.
func (x *trial) forget(name string) {
	x.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(x.p.root, name)); err == nil {
			x.p.do(x.T, "delete", "--force", name)
		}
	})
}

// created is a container of a bundle made of edit and args.
func (x *trial) created(edit func(*specs.Spec), args ...string) string {
	name := id(x.T)
	if r := x.create(name, bundle(x.T, edit, args...)); r.Code != 0 {
		x.fatalf("create: %s%s", r, x.p.logged())
	}
	return name
}

func (x *trial) started(edit func(*specs.Spec), args ...string) string {
	name := x.created(edit, args...)
	x.must("start", name)
	return name
}

func (x *trial) state(name string) specs.State {
	var s specs.State
	if err := json.Unmarshal([]byte(x.must("state", name)), &s); err != nil {
		x.fatalf("state: %v", err)
	}
	return s
}

// ended waits for the end of a container that is about to end by itself.
func (x *trial) ended(name string) {
	x.gone(x.pids[name])
}

// gone waits for a process's end.
func (x *trial) gone(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has gone already
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(rig.Limit.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if n == 0 {
			x.fatalf("process %d does not end", pid)
		}
		return
	}
}

// status demands one.
func (x *trial) status(name string, want specs.ContainerState) {
	if got := x.state(name).Status; got != want {
		x.errorf("status is %s, want %s", got, want)
	}
}

// see runs the rules' looks one after the other in one container.
func (x *trial) see(edit func(*specs.Spec), batch []*rule) map[*rule]string {
	const mark = "==== rule "
	var script strings.Builder
	for i, r := range batch {
		fmt.Fprintf(&script, "echo; echo '%s%d'\n( %s\n) 2>&1\n", mark, i, r.look)
	}
	fmt.Fprintf(&script, "echo; echo '%send'\n", mark)
	r := &rule{edit: edit, raw: batch[0].raw}
	if edit == nil {
		r.edit = batch[0].edit
	}
	name := id(x.T)
	dir := x.bundle(r, "sh", "-c", script.String())
	x.forget(name)
	said := x.do("run", "--bundle", dir, name)
	parts := strings.Split("\n"+said.Out, "\n"+mark)
	if len(parts) != len(batch)+2 {
		x.fatalf("the container does not get to its end: %s%s", said, x.p.logged())
	}
	seen := map[*rule]string{}
	for i, r := range batch {
		_, seen[r], _ = strings.Cut(parts[i+1], "\n")
	}
	return seen
}

// marks is a directory of the host's where hooks and containers leave signs.
func (x *trial) marks() string {
	dir := x.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		x.Fatal(err)
	}
	return dir
}

func (x *trial) marked(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

func (x *trial) read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		x.errorf("%v", err)
	}
	return string(b)
}

// shared is an edit that shows a directory of the host's at /mnt.
func shared(dir string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"bind", "rw"}})
	}
}

// edits joins several.
func edits(all ...func(*specs.Spec)) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for _, edit := range all {
			edit(s)
		}
	}
}
