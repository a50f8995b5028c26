package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// check is one line of the table.
type check struct {
	name  string
	what  string
	needs string // the name of another that makes what it uses
	do    func(*cluster) (figure string, err error)
}

// checks runs those asked for, prints the table, and gives an error that counts the failed.
func (c *cluster) checks() error {
	var rows []string
	failed := 0
	wanted := c.wanted()
	for _, check := range checks {
		if !wanted[check.name] {
			continue
		}
		progress("%s: %s", check.name, check.what)
		start := time.Now()
		figure, err := check.do(c)
		verdict := "ok"
		var skipped *skip
		switch {
		case errors.As(err, &skipped):
			verdict, figure = "skipped", skipped.Error()
		case err != nil:
			failed++
			verdict, figure = "FAILED", err.Error()
		}
		progress("%s: %s %s", check.name, verdict, figure)
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %.1f s | %s |", check.name, check.what, verdict, time.Since(start).Seconds(), strings.ReplaceAll(strings.ReplaceAll(figure, "\n", " "), "|", "\\|")))
	}
	table := "| check | what | | took | |\n|---|---|---|---:|---|\n" + strings.Join(rows, "\n") + "\n"
	fmt.Print("\n", table)
	if c.opts.out != "" {
		if err := os.WriteFile(c.opts.out, []byte(table), 0o644); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(rows))
	}
	return nil
}

// skip is why a check cannot be made here, and how it could be.
type skip struct{ why string }

func (s *skip) Error() string { return s.why }

// wanted are the checks of --only with what they need, or all.
func (c *cluster) wanted() map[string]bool {
	wanted := map[string]bool{}
	for _, check := range checks {
		if c.opts.only == "" || slices.ContainsFunc(strings.Split(c.opts.only, ","), func(p string) bool { return strings.HasPrefix(check.name, p) }) {
			wanted[check.name] = true
		}
	}
	for _, check := range slices.Backward(checks) {
		if wanted[check.name] && check.needs != "" {
			for need := range strings.FieldsSeq(check.needs) {
				wanted[need] = true
			}
		}
	}
	return wanted
}

var checks = []check{
	{"runtimeclass", "deploy/base: the RuntimeClasses, and the node's labels by hwtest", "", (*cluster).runtimeClasses},
	{"dns", "CoreDNS in a sandbox, behind its Service", "runtimeclass", (*cluster).dns},
	{"deployment", "a Deployment of two, behind a Service that a pod finds by name", "runtimeclass dns", (*cluster).deployment},
	{"rolling", "a rolling update, while a client asks on", "deployment", (*cluster).rolling},
	{"exec", "exec with its status and input, logs, cp, attach", "deployment", (*cluster).exec},
	{"port-forward", "kubectl port-forward", "deployment", (*cluster).portForward},
	{"debug", "kubectl debug: an ephemeral container that sees the other's processes", "deployment", (*cluster).debug},
	{"job", "a Job that succeeds and one that fails", "runtimeclass", (*cluster).job},
	{"statefulset", "a StatefulSet whose pod finds its volume again", "runtimeclass", (*cluster).statefulSet},
	{"probes", "readiness gates a Service, liveness restarts, by exec, HTTP and TCP", "runtimeclass", (*cluster).probes},
	{"limits", "a memory limit ends in OOMKilled, a quota of processors is seen inside", "runtimeclass", (*cluster).limits},
	{"volumes", "emptyDir in memory between containers, a ConfigMap that changes, a Secret, the downward API, users", "runtimeclass", (*cluster).volumes},
	{"init", "init containers, a sidecar, termination by SIGTERM within its grace", "runtimeclass", (*cluster).initContainers},
	{"metrics", "metrics-server in a sandbox: kubectl top, and an autoscaler that acts", "dns", (*cluster).metrics},
	{"restart", "kubelet and containerd restart beneath running pods", "deployment", (*cluster).restarts},
	{"drain", "a node is drained and comes back", "deployment", (*cluster).drain},
	{"start", "from scheduled to Running, beside runc's", "runtimeclass", (*cluster).startTimes},
	{"many", "many pods at once", "runtimeclass", (*cluster).many},
}

// apply makes what a manifest says.
func (c *cluster) apply(manifest string) error {
	_, err := c.feed(manifest, "apply", "-f", "-")
	return err
}

// remove takes it away again and waits for that.
func (c *cluster) remove(manifest string) error {
	_, err := c.feed(manifest, "delete", "--timeout=120s", "--ignore-not-found", "-f", "-")
	return err
}

// waits is kubectl wait; what the pods and their events say goes into the error.
func (c *cluster) waits(args ...string) error {
	_, err := c.kubectl(append([]string{"wait", "--timeout=120s"}, args...)...)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, c.story())
	}
	return err
}

func (c *cluster) rollout(what string) error {
	_, err := c.kubectl("rollout", "status", "--timeout=180s", what)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, c.story())
	}
	return err
}

// story is what a person would look at first.
func (c *cluster) story() string {
	pods, _ := c.kubectl("get", "pods", "-A", "-o", "wide")
	events, _ := c.kubectl("get", "events", "-A", "--field-selector=type=Warning", "--sort-by=.lastTimestamp", "-o", "custom-columns=O:.involvedObject.name,R:.reason,M:.message")
	lines := strings.Split(events, "\n")
	return pods + "\n" + strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// says wants a command to print something.
func (c *cluster) says(want string, args ...string) error {
	got, err := c.kubectl(args...)
	if err == nil && got != want {
		err = fmt.Errorf("kubectl %s printed %q, not %q", strings.Join(args, " "), got, want)
	}
	return err
}

// eventually is says for what comes with time.
func (c *cluster) eventually(want string, args ...string) error {
	err := until("what kubectl prints", time.Minute, func() error { return c.says(want, args...) })
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, c.story())
	}
	return err
}

// first is the error that came first of several steps.
func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// pod is a Pod's status as far as the checks look.
type pod struct {
	Metadata struct{ Name, UID string }
	Status   struct {
		Phase             string
		PodIP             string
		Conditions        []struct{ Type, Status, LastTransitionTime string }
		ContainerStatuses []struct {
			RestartCount int
			State        struct {
				Running *struct{ StartedAt time.Time }
			}
		}
	}
}

func (c *cluster) podsOf(selector string) ([]pod, error) {
	out, err := c.kubectl("get", "pods", "-l", selector, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct{ Items []pod }
	return list.Items, json.Unmarshal([]byte(out), &list)
}
