package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func (c *cluster) job() (string, error) {
	job := func(name, script string) string {
		return fmt.Sprintf("{apiVersion: batch/v1, kind: Job, metadata: {name: %s}, spec: {backoffLimit: 1, completions: 3, parallelism: 3, template: {spec: {runtimeClassName: bulkhead, restartPolicy: Never, containers: [%s]}}}}\n---\n",
			name, box("work", script))
	}
	manifest := job("good", "echo done") + job("bad", "exit 3")
	return "", first(
		func() error { return c.apply(manifest) },
		func() error { return c.waits("--for=condition=Complete", "job/good") },
		func() error { return c.waits("--for=condition=Failed", "job/bad") },
		func() error { return c.says("done", "logs", "job/good", "--tail=1") },
		func() error { return c.remove(manifest) },
	)
}

func (c *cluster) statefulSet() (string, error) {
	dir := filepath.Join(c.dir, "volume")
	if err := os.Mkdir(dir, 0o777); err != nil {
		return "", err
	}
	manifest := fmt.Sprintf(`{apiVersion: v1, kind: PersistentVolume, metadata: {name: disk}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: %q}, storageClassName: here}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {serviceName: db, selector: {matchLabels: {app: db}},
 template: {metadata: {labels: {app: db}}, spec: {runtimeClassName: bulkhead, terminationGracePeriodSeconds: 1, containers: [%s]}},
 volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], storageClassName: here, resources: {requests: {storage: 1Gi}}}}]}}
---
`, dir, box("db", `echo $(hostname) >>/data/starts; exec sleep 1000000`, "volumeMounts: [{name: data, mountPath: /data}]"))
	starts := func(n int) error {
		return c.eventually(strings.TrimSuffix(strings.Repeat("db-0\n", n), "\n"), "exec", "db-0", "--", "cat", "/data/starts")
	}
	return "", first(
		func() error { return c.apply(manifest) },
		func() error { return c.rollout("statefulset/db") },
		func() error { return starts(1) },
		func() error { _, err := c.kubectl("delete", "pod", "db-0"); return err },
		func() error { return c.rollout("statefulset/db") },
		func() error { return starts(2) },
		func() error {
			_, err := c.kubectl("delete", "statefulset/db", "pvc/data-db-0", "--timeout=60s")
			return err
		},
		func() error { return c.remove(manifest) },
	)
}

func (c *cluster) probes() (string, error) {
	manifest := podOf("slow", "", box("slow", "httpd -p 8080 -h /; sleep 4; touch /ready; exec sleep 1000000", "readinessProbe: {periodSeconds: 1, exec: {command: [test, -e, /ready]}}",
		"livenessProbe: {periodSeconds: 1, tcpSocket: {port: 8080}}", "startupProbe: {periodSeconds: 1, httpGet: {path: /etc/passwd, port: 8080}}")) +
		podOf("sick", "", box("sick", "sleep 2; touch /sick; exec sleep 1000000", "livenessProbe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [test, '!', -e, /sick]}}")) +
		"{apiVersion: v1, kind: Service, metadata: {name: slow}, spec: {selector: {app: slow}, ports: [{port: 80, targetPort: 8080}]}}\n"
	endpoints := []string{"get", "endpointslices", "-l", "kubernetes.io/service-name=slow", "-o", "jsonpath={.items[*].endpoints[*].conditions.ready}"}
	return "", first(
		func() error { return c.apply(manifest) },
		func() error { return c.eventually("Running", "get", "pod", "slow", "-o", "jsonpath={.status.phase}") },
		func() error { return c.eventually("false", endpoints...) },
		func() error { return c.waits("--for=condition=Ready", "pod/slow") },
		func() error { return c.eventually("true", endpoints...) },
		func() error {
			return c.eventually("1", "get", "pod", "sick", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
		},
		func() error {
			return c.says("0", "get", "pod", "slow", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
		},
		func() error { return c.remove(manifest) },
	)
}

func (c *cluster) limits() (string, error) {
	manifest := podOf("greedy", "restartPolicy: Never,",
		box("greedy", "tail -c 200m /dev/zero | wc -c; echo still there; exit 5", "resources: {limits: {memory: 64Mi}}"),
		box("beside", "sleep 3; exit 0")) +
		podOf("two", "", box("two", "exec sleep 1000000", "resources: {limits: {cpu: 500m, memory: 64Mi}}"))
	return "", first(
		func() error { return c.apply(manifest) },
		func() error {
			return c.eventually("true", "get", "pod", "greedy", "-o", `jsonpath={.status.containerStatuses[?(@.name=="greedy")].state.terminated.exitCode}`+"", "--output", "go-template="+
				`{{range .status.containerStatuses}}{{if eq .name "greedy"}}{{if .state.terminated}}{{eq .state.terminated.reason "OOMKilled"}}{{end}}{{end}}{{end}}`)
		},
		func() error {
			return c.eventually("0", "get", "pod", "greedy", "-o", `jsonpath={.status.containerStatuses[?(@.name=="beside")].state.terminated.exitCode}`)
		},
		func() error { return c.waits("--for=condition=Ready", "pod/two") },
		func() error {
			return c.says("67108864", "exec", "two", "--", "sh", "-c", "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes")
		},
		func() error {
			return c.says("50000 100000", "exec", "two", "--", "sh", "-c", "cat /sys/fs/cgroup/cpu.max 2>/dev/null || echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us)")
		},
		func() error { return c.remove(manifest) },
	)
}

func (c *cluster) volumes() (string, error) {
	config := func(value string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {colour: %s}}\n---\n{apiVersion: v1, kind: Secret, metadata: {name: hidden}, stringData: {word: sesame}}\n---\n", value)
	}
	mounts := "volumeMounts: [{name: shm, mountPath: /fast}, {name: settings, mountPath: /settings}, {name: hidden, mountPath: /hidden}, {name: about, mountPath: /about}]"
	manifest := podOf("volumes", "securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}, volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 8Mi}}, {name: settings, configMap: {name: settings}}, {name: hidden, secret: {secretName: hidden, defaultMode: 288}}, {name: about, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}],",
		box("a", "echo from a >/fast/a; exec sleep 1000000", mounts),
		box("b", "exec sleep 1000000", mounts, "env: [{name: MY_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]"))
	in := func(want, script string) func() error {
		return func() error { return c.says(want, "exec", "volumes", "-c", "b", "--", "sh", "-c", script) }
	}
	return "", first(
		func() error { return c.apply(config("blue") + manifest) },
		func() error { return c.waits("--for=condition=Ready", "pod/volumes") },
		func() error { return c.eventually("from a", "exec", "volumes", "-c", "b", "--", "cat", "/fast/a") },
		in("bluesesamevolumes", "echo $(cat /settings/colour /hidden/word /about/name)"),
		in("1000 1000 1000 2000", "echo $(id -u) $(id -g) $(id -G)"),
		in("yes", `ip -4 -o addr show eth0 | grep -q "inet $MY_IP/" && echo yes`),
		in("full", "dd if=/dev/zero of=/fast/big bs=1M count=20 2>/dev/null || echo full; rm /fast/big"),
		func() error { return c.apply(config("green")) },
		func() error {
			return c.eventually("green", "exec", "volumes", "-c", "b", "--", "cat", "/settings/colour")
		},
		func() error { return c.remove(manifest + config("green")) },
	)
}

func (c *cluster) initContainers() (string, error) {
	manifest := podOf("ordered", fmt.Sprintf("restartPolicy: Never, volumes: [{name: v, emptyDir: {}}], initContainers: [%s, %s],",
		box("first", "echo first >>/v/log", "volumeMounts: [{name: v, mountPath: /v}]"),
		box("sidecar", "echo sidecar >>/v/log; touch /v/up; trap 'exit 0' TERM; sleep 1000000 & wait", "restartPolicy: Always", "startupProbe: {periodSeconds: 1, exec: {command: [test, -e, /v/up]}}", "volumeMounts: [{name: v, mountPath: /v}]")),
		box("main", "cat /v/log; trap 'echo bye; exit 0' TERM; echo ready; sleep 1000000 & wait", "volumeMounts: [{name: v, mountPath: /v}]"))
	return "", first(
		func() error {
			return c.apply(strings.ReplaceAll(manifest, "terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 60"))
		},
		func() error { return c.eventually("first\nsidecar\nready", "logs", "ordered", "-c", "main") },
		func() error {
			start := time.Now()
			if _, err := c.kubectl("delete", "pod", "ordered", "--timeout=100s"); err != nil {
				return err
			}
			if took := time.Since(start); took > 30*time.Second {
				return fmt.Errorf("its end took %v where it answers SIGTERM at once", took)
			}
			return nil
		},
	)
}
