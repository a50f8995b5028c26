package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func (c *cluster) metrics() (string, error) {
	manifest, err := os.ReadFile("deploy/e2e/manifests/metrics.yaml")
	if err != nil {
		return "", err
	}
	busy := fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: busy}, spec: {selector: {matchLabels: {app: busy}},
 template: {metadata: {labels: {app: busy}}, spec: {runtimeClassName: bulkhead, terminationGracePeriodSeconds: 1, containers: [%s]}}}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: busy}, spec: {minReplicas: 1, maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy},
 metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}}
---
`, box("busy", "while :; do :; done", "resources: {requests: {cpu: 100m}, limits: {cpu: 200m}}"))
	var top string
	err = first(
		func() error { return c.apply(string(manifest)) },
		func() error {
			_, err := c.kubectl("-n", "kube-system", "rollout", "status", "--timeout=180s", "deployment/metrics-server")
			if err != nil {
				log, _ := c.kubectl("-n", "kube-system", "logs", "deployment/metrics-server", "--tail=20")
				err = fmt.Errorf("%w\n%s\n%s", err, c.story(), log)
			}
			return err
		},
		func() error { return c.apply(busy) },
		func() error { return c.rollout("deployment/busy") },
		func() error {
			return until("figures of the pod", 3*time.Minute, func() error {
				var err error
				top, err = c.kubectl("top", "pod", "-l", "app=busy", "--no-headers")
				return err
			})
		},
		func() error { return c.eventually("2", "get", "deployment", "busy", "-o", "jsonpath={.spec.replicas}") },
		func() error { return c.remove(busy) },
	)
	return strings.Join(strings.Fields(top), " "), err
}

func (c *cluster) restarts() (string, error) {
	state := []string{"get", "pods", "-l", "app in (web,client)", "-o", `jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].restartCount} {.status.containerStatuses[*].containerID}{"\n"}{end}`}
	before, err := c.kubectl(state...)
	if err != nil {
		return "", err
	}
	for _, p := range []*process{c.kubelet, c.containerd, c.kubelet, c.containerd} {
		p.kill()
	}
	manifest := podOf("after", "", box("after", "exec sleep 1000000"))
	return "", first(
		func() error { return c.containerd.answers(func() error { return c.ctr("version").Run() }) },
		c.ready,
		func() error { return c.apply(manifest) },
		func() error { return c.waits("--for=condition=Ready", "pod/after") },
		func() error { return c.eventually("still", "exec", "client", "--", "echo", "still") },
		func() error { return c.rollout("deployment/web") },
		func() error { return c.eventually(before, state...) },
		func() error { return c.remove(manifest) },
	)
}

func (c *cluster) drain() (string, error) {
	return "", first(
		func() error {
			_, err := c.kubectl("drain", node, "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s", "--pod-selector=app in (web)")
			return err
		},
		func() error {
			return c.eventually("Pending Pending", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.phase}")
		},
		func() error { _, err := c.kubectl("uncordon", node); return err },
		func() error { return c.rollout("deployment/web") },
	)
}

// startTimes takes the median of eleven pods, one at a time and in turn, of each runtime.
func (c *cluster) startTimes() (string, error) {
	took := map[string][]time.Duration{}
	for n := range 11 {
		for _, class := range []string{"", "runtimeClassName: bulkhead, "} {
			name := fmt.Sprintf("start-%d-%d", n, len(class))
			manifest := strings.ReplaceAll(podOf(name, "", box("b", "exec sleep 1000000")), "runtimeClassName: bulkhead, ", class)
			watch, err := c.watch(name)
			if err != nil {
				return "", err
			}
			if err := c.apply(manifest); err != nil {
				return "", err
			}
			d, err := watch()
			if err != nil {
				return "", fmt.Errorf("%w\n%s", err, c.story())
			}
			took[class] = append(took[class], d)
			if err := c.remove(manifest); err != nil {
				return "", err
			}
		}
	}
	median := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2] }
	runc, ours := median(took[""]), median(took["runtimeClassName: bulkhead, "])
	figure := fmt.Sprintf("runc %d ms, bulkhead %d ms (%+d ms), medians of 11", runc.Milliseconds(), ours.Milliseconds(), (ours - runc).Milliseconds())
	return figure, nil
}

// watch gives a function that returns the time between a pod's PodScheduled and its Running, as
// they come by a watch: a pod's own times have seconds.
func (c *cluster) watch(name string) (func() (time.Duration, error), error) {
	cmd := exec.Command(c.program("kubectl"), "get", "pods", "--watch", "--field-selector=metadata.name="+name, "-o",
		`jsonpath={.status.conditions[?(@.type=="PodScheduled")].status} {.status.phase}{"\n"}`)
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+filepath.Join(c.dir, "admin.kubeconfig"), "HOME="+c.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (time.Duration, error) {
		defer cmd.Wait()
		defer cmd.Process.Kill()
		var scheduled time.Time
		limit := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
		defer limit.Stop()
		for line := range linesOf(out) {
			if scheduled.IsZero() && strings.HasPrefix(line, "True") {
				scheduled = time.Now()
			}
			if strings.HasSuffix(line, " Running") {
				return time.Since(scheduled), nil
			}
		}
		return 0, errors.New("pod " + name + " did not run in two minutes")
	}, nil
}

// many starts pods at once, and ends them.
func (c *cluster) many() (string, error) {
	manifest := fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: many}, spec: {replicas: %d, progressDeadlineSeconds: 900, selector: {matchLabels: {app: many}},
 template: {metadata: {labels: {app: many}}, spec: {runtimeClassName: bulkhead, terminationGracePeriodSeconds: 1, containers: [%s]}}}}
---
`, c.opts.pods, box("one", "exec sleep 1000000"))
	start := time.Now()
	var up, down time.Duration
	err := first(
		func() error { return c.apply(manifest) },
		func() error {
			_, err := c.kubectl("rollout", "status", "--timeout=280s", "deployment/many")
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, c.story())
			}
			return err
		},
		func() error { up = time.Since(start); start = time.Now(); return nil },
		func() error {
			pods, err := c.podsOf("app=many")
			for _, p := range pods {
				for _, s := range p.Status.ContainerStatuses {
					if s.RestartCount != 0 {
						err = errors.Join(err, fmt.Errorf("%s was restarted %d times", p.Metadata.Name, s.RestartCount))
					}
				}
			}
			return err
		},
		func() error { return c.remove(manifest) },
		func() error {
			return until("the last pod's end", 3*time.Minute, func() error {
				pods, err := c.podsOf("app=many")
				if err == nil && len(pods) > 0 {
					err = fmt.Errorf("%d are left", len(pods))
				}
				return err
			})
		},
	)
	down = time.Since(start)
	return fmt.Sprintf("%d pods Running after %.0f s, gone after %.0f s", c.opts.pods, up.Seconds(), down.Seconds()), err
}
