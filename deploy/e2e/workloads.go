package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// box is a container of a pod in the sandbox, as YAML's flow style: NAME and a script.
func box(name, script string, more ...string) string {
	return fmt.Sprintf("{name: %s, image: 'docker.io/library/box:1', command: [sh, -c, %q]%s}", name, script, strings.Join(append([]string{""}, more...), ", "))
}

// podOf is a Pod's manifest.
func podOf(name, spec string, containers ...string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %[1]s, labels: {app: %[1]s}}, spec: {runtimeClassName: bulkhead, terminationGracePeriodSeconds: 2, %[2]s containers: [%[3]s]}}
---
`, name, spec, strings.Join(containers, ", "))
}

func (c *cluster) runtimeClasses() (string, error) {
	if _, err := c.kubectl("apply", "-k", "deploy/base"); err != nil {
		return "", err
	}
	labels, err := exec.Command(filepath.Join(c.opts.bulkhead, "hwtest"), "--quick", "--labels").Output()
	if err != nil {
		return "", fmt.Errorf("hwtest --labels: %w", err)
	}
	_, err = c.kubectl(append([]string{"label", "--overwrite", "node", node, "bulkhead.dev/installed=true"}, strings.Fields(string(labels))...)...)
	return strings.Join(strings.Fields(string(labels)), " "), err
}

func (c *cluster) dns() (string, error) {
	manifest, err := os.ReadFile("deploy/e2e/manifests/dns.yaml")
	if err != nil {
		return "", err
	}
	return "", first(
		func() error { return c.apply(string(manifest)) },
		func() error {
			_, err := c.kubectl("-n", "kube-system", "rollout", "status", "--timeout=180s", "deployment/coredns")
			if err != nil {
				log, _ := c.kubectl("-n", "kube-system", "logs", "deployment/coredns")
				err = fmt.Errorf("%w\n%s\n%s", err, c.story(), log)
			}
			return err
		},
	)
}

// web is the Deployment that several checks use, with a version in its page.
func web(version string) string {
	return fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2, selector: {matchLabels: {app: web}},
 strategy: {rollingUpdate: {maxUnavailable: 0}},
 template: {metadata: {labels: {app: web}}, spec: {runtimeClassName: bulkhead, terminationGracePeriodSeconds: 10, containers: [%s]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
---
`, box("web", `mkdir /www && echo `+version+` >/www/index.html && trap 'sleep 3; exit 0' TERM; httpd -f -p 8080 -h /www & echo serving; wait`,
		"ports: [{containerPort: 8080}]", "readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8080}}"))
}

func (c *cluster) deployment() (string, error) {
	return "", first(
		func() error { return c.apply(web("one") + podOf("client", "", box("client", "exec sleep 1000000"))) },
		func() error { return c.rollout("deployment/web") },
		func() error { return c.waits("--for=condition=Ready", "pod/client") },
		// The kernel is ours, as /proc/version says.
		func() error {
			out, err := c.kubectl("exec", "client", "--", "cat", "/proc/version")
			if err == nil && !strings.Contains(strings.ToLower(out), "bulkhead") {
				err = fmt.Errorf("/proc/version in the pod is %q: not the Sentry's", out)
			}
			return err
		},
		func() error {
			return c.eventually("one", "exec", "client", "--", "fetch", "http://web.default.svc.cluster.local/")
		},
		func() error {
			return c.says("one", "exec", "client", "--", "fetch", "http://web/")
		},
	)
}

func (c *cluster) rolling() (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// One line for each request: what came, or the client's complaint.
	asks := c.command(ctx, "exec", "client", "--", "fetch", "-n", "0", "http://web/")
	out, err := asks.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := asks.Start(); err != nil {
		return "", err
	}
	defer asks.Wait()
	defer cancel()
	var ones, twos, failed atomic.Int32
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			switch lines.Text() {
			case "one":
				ones.Add(1)
			case "two":
				twos.Add(1)
			default:
				failed.Add(1)
			}
		}
	}()
	err = first(
		func() error {
			return until("the client's first page", time.Minute, func() error {
				if ones.Load() == 0 {
					return errors.New("none came")
				}
				return nil
			})
		},
		func() error { return c.apply(web("two")) },
		func() error { return c.rollout("deployment/web") },
		func() error {
			return until("ten new pages", time.Minute, func() error {
				if twos.Load() < 10 {
					return fmt.Errorf("%d came", twos.Load())
				}
				return nil
			})
		},
	)
	figure := fmt.Sprintf("%d requests, %d failed", ones.Load()+twos.Load()+failed.Load(), failed.Load())
	if err == nil && failed.Load() > 0 {
		err = errors.New(figure)
	}
	return figure, err
}

func (c *cluster) exec() (string, error) {
	return "", first(
		func() error { return c.says("hello", "exec", "client", "--", "echo", "hello") },
		func() error {
			_, err := c.kubectl("exec", "client", "--", "sh", "-c", "exit 7")
			if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 7 {
				return fmt.Errorf("exit 7 in the pod: kubectl exec gave %v", err)
			}
			return nil
		},
		func() error {
			out, err := c.feed("one\ntwo\n", "exec", "-i", "client", "--", "wc", "-l")
			if err == nil && strings.TrimSpace(out) != "2" {
				err = fmt.Errorf("wc of two lines by exec -i: %q", out)
			}
			return err
		},
		func() error { return c.says("serving", "logs", "deployment/web", "--tail=1") },
		func() error {
			path := filepath.Join(c.dir, "copied")
			text := strings.Repeat("a line that goes there and back\n", 10000)
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				return err
			}
			if _, err := c.kubectl("cp", path, "client:/tmp/there"); err != nil {
				return err
			}
			if _, err := c.kubectl("cp", "client:/tmp/there", path+".back"); err != nil {
				return err
			}
			back, err := os.ReadFile(path + ".back")
			if err == nil && string(back) != text {
				err = errors.New("what kubectl cp brought back is not what it took there")
			}
			return err
		},
		func() error {
			manifest := podOf("talks", "restartPolicy: Never,", box("talks", "read line; echo heard $line", "stdin: true", "stdinOnce: true"))
			return first(
				func() error { return c.apply(manifest) },
				func() error { return c.waits("--for=condition=Ready", "pod/talks") },
				func() error {
					out, err := c.feed("this\n", "attach", "-i", "talks")
					if err == nil && !strings.Contains(out, "heard this") {
						err = fmt.Errorf("attach printed %q", out)
					}
					return err
				},
				func() error {
					return c.eventually("Succeeded", "get", "pod", "talks", "-o", "jsonpath={.status.phase}")
				},
				func() error { return c.remove(manifest) },
			)
		},
	)
}

func (c *cluster) portForward() (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := c.command(ctx, "port-forward", "service/web", ":80")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer cmd.Wait()
	defer cancel()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("kubectl port-forward: %w: %s", err, complaint.String())
	}
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	answer, err := (&http.Client{Timeout: 20 * time.Second}).Get("http://" + address + "/")
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, complaint.String())
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err == nil && strings.TrimSpace(string(page)) == "" {
		err = errors.New("the page is empty")
	}
	return "", err
}

func (c *cluster) debug() (string, error) {
	if _, err := c.kubectl("debug", "client", "--image=docker.io/library/box:1", "--target=client", "-c", "looks", "--", "sh", "-c", "ps | grep 'sleep [1]000000'; echo seen"); err != nil {
		return "", err
	}
	return "", until("what the debugger prints", time.Minute, func() error {
		out, err := c.kubectl("logs", "client", "-c", "looks")
		if err == nil && !(strings.Contains(out, "sleep 1000000") && strings.Contains(out, "seen")) {
			err = fmt.Errorf("it printed %q", out)
		}
		return err
	})
}
