package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What the cluster is made of. All of it is in namespaces of the program's own.
const (
	node        = "node1"
	nodeIP      = "10.99.0.1"
	apiserver   = "https://" + nodeIP + ":6443"
	services    = "10.96.0.0/16"
	apiService  = "10.96.0.1"
	dnsService  = "10.96.0.10"
	pods        = "10.88.0.0/16"
	cgroupRoot  = "bulkhead-e2e"
	clusterName = "cluster.local"
)

// cluster is a control plane and a node.
type cluster struct {
	dir        string
	opts       *options
	pki        *authority
	processes  []*process // in the order of their start
	containerd *process
	kubelet    *process
}

// whole is the program: a cluster, and the checks.
func (c *cluster) whole(interrupted <-chan os.Signal) error {
	if err := c.up(); err != nil {
		return err
	}
	failed := c.checks()
	if c.opts.keep {
		fmt.Printf("\nThe cluster runs; from another shell:\n  nsenter -t %d -n -m env KUBECONFIG=%s %s get pods -A\nCtrl-C ends it.\n",
			os.Getpid(), filepath.Join(c.dir, "admin.kubeconfig"), filepath.Join(c.opts.components, "kubectl"))
		<-interrupted
	}
	return failed
}

func (c *cluster) up() error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"the machine: mounts and links", c.machine},
		{"certificates", c.certificates},
		{"etcd and kube-apiserver", c.controlPlane},
		{"containerd, by what bulkhead install writes", c.startContainerd},
		{"images", c.images},
		{"kubelet", c.startKubelet},
		{"scheduler, controller-manager, kube-proxy", c.controllers},
		{"node Ready", c.ready},
	} {
		progress("%s", step.what)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// machine keeps what the cluster writes to well-known places from the host's.
func (c *cluster) machine() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
		}
	}
	// A kubelet's mounts propagate to containers and back.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	return shell(`ip link set lo up
		ip link add node0 type veth peer name node1 && ip address add ` + nodeIP + `/24 dev node0 && ip link set node0 up && ip link set node1 up
		ip route add default via ` + nodeIP + ` dev node0
		echo 1 >/proc/sys/net/ipv4/ip_forward`)
}

func (c *cluster) certificates() error {
	dir := filepath.Join(c.dir, "pki")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var err error
	if c.pki, err = newAuthority(dir); err != nil {
		return err
	}
	for _, one := range []struct {
		name, user string
		groups     []string
		hosts      []string
	}{
		{"apiserver", "kube-apiserver", nil, []string{nodeIP, apiService, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterName}},
		{"service-account", "service-accounts", nil, nil},
		{"proxy-client", "front-proxy-client", nil, nil},
		{"admin", "admin", []string{"system:masters"}, nil},
		{"kubelet", "system:node:" + node, []string{"system:nodes"}, []string{node, nodeIP}},
		{"apiserver-kubelet", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil},
		{"scheduler", "system:kube-scheduler", nil, nil},
		{"controller-manager", "system:kube-controller-manager", nil, nil},
		{"proxy", "system:kube-proxy", nil, nil},
	} {
		if err := c.pki.issue(one.name, one.user, one.groups, one.hosts...); err != nil {
			return err
		}
	}
	for _, name := range []string{"admin", "kubelet", "scheduler", "controller-manager", "proxy"} {
		if _, err := c.pki.kubeconfig(name, apiserver); err != nil {
			return err
		}
	}
	return os.Symlink(c.file("admin.kubeconfig"), filepath.Join(c.dir, "admin.kubeconfig"))
}

func (c *cluster) file(name string) string { return filepath.Join(c.pki.dir, name) }

func (c *cluster) program(name string) string { return filepath.Join(c.opts.components, name) }

func (c *cluster) controlPlane() error {
	etcd, err := c.start("etcd", nil, c.program("etcd"), "--data-dir", filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380")
	if err != nil {
		return err
	}
	if err := etcd.answers(func() error { return get("http://127.0.0.1:2379/health") }); err != nil {
		return err
	}
	p, err := c.start("kube-apiserver", nil, c.program("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443",
		"--bind-address="+nodeIP, "--advertise-address="+nodeIP, "--service-cluster-ip-range="+services,
		"--tls-cert-file="+c.file("apiserver.crt"), "--tls-private-key-file="+c.file("apiserver.key"), "--client-ca-file="+c.file("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.file("service-account.crt"), "--service-account-signing-key-file="+c.file("service-account.key"),
		"--kubelet-client-certificate="+c.file("apiserver-kubelet.crt"), "--kubelet-client-key="+c.file("apiserver-kubelet.key"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file="+c.file("ca.crt"), "--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+c.file("proxy-client.crt"), "--proxy-client-key-file="+c.file("proxy-client.key"), "--enable-aggregator-routing",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged", "--shutdown-delay-duration=0s")
	if err != nil {
		return err
	}
	return p.answers(func() error { _, err := c.kubectl("get", "--raw", "/readyz"); return err })
}

func (c *cluster) ctr(args ...string) *exec.Cmd {
	return exec.Command("ctr", append([]string{"--address", filepath.Join(c.dir, "containerd.sock")}, args...)...)
}

// startContainerd configures it as a person does: a file of theirs, and bulkhead install.
func (c *cluster) startContainerd() error {
	cni := filepath.Join(c.dir, "cni")
	list := fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [
	{"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`, pods)
	config := fmt.Sprintf(`version = 2
root = "%[1]s/containerd"
state = "%[1]s/containerd.run"
[grpc]
  address = "%[1]s/containerd.sock"
[ttrpc]
  address = "%[1]s/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[2]q
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true # runc's pods ask for a score below this process's, which may be forbidden
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %[3]q
`, c.dir, pauseImage, cni)
	etc := filepath.Join(c.dir, "etc")
	for path, text := range map[string]string{filepath.Join(cni, "10-pods.conflist"): list, filepath.Join(etc, "etc/containerd/config.toml"): config} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	bulkhead := filepath.Join(c.opts.bulkhead, "bulkhead")
	if out, err := exec.Command(bulkhead, "install", "--yes", "--destdir", etc, "--program", bulkhead, "containerd").CombinedOutput(); err != nil {
		return fmt.Errorf("bulkhead install: %w\n%s", err, out)
	}
	var err error
	c.containerd, err = c.start("containerd", []string{"PATH=" + c.opts.bulkhead + ":" + os.Getenv("PATH")}, "containerd", "-c", filepath.Join(etc, "etc/containerd/config.toml"))
	if err != nil {
		return err
	}
	c.containerd.restarts = true
	return c.containerd.answers(func() error { return c.ctr("version").Run() })
}

func (c *cluster) startKubelet() error {
	config := fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /%[2]s
cgroupsPerQOS: true
enforceNodeAllocatable: []
clusterDNS: [%[3]s]
clusterDomain: %[4]s
resolvConf: %[1]s/resolv.conf
authentication: {x509: {clientCAFile: %[5]s/ca.crt}, webhook: {enabled: true}, anonymous: {enabled: false}}
authorization: {mode: Webhook}
tlsCertFile: %[5]s/kubelet.crt
tlsPrivateKeyFile: %[5]s/kubelet.key
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
syncFrequency: 10s
failSwapOn: false
maxPods: 200
registryPullQPS: 0
serializeImagePulls: false
containerLogMaxSize: 100Ki
containerLogMonitorInterval: 3s
`, c.dir, cgroupRoot, dnsService, clusterName, c.pki.dir)
	path := filepath.Join(c.dir, "kubelet.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "resolv.conf"), nil, 0o644); err != nil {
		return err
	}
	for _, controller := range c.cgroups() {
		if err := os.Mkdir(controller, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		// A cpuset takes nobody before it has processors and memory (cpuset(7)).
		if strings.Contains(controller, "/cpuset") {
			for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
				text, err := os.ReadFile(filepath.Join(filepath.Dir(controller), name))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(controller, name), text, 0); err != nil {
					return err
				}
			}
		}
	}
	var err error
	c.kubelet, err = c.start("kubelet", []string{"PATH=" + os.Getenv("PATH")}, c.program("kubelet"), "--config="+path, "--kubeconfig="+c.file("kubelet.kubeconfig"),
		"--hostname-override="+node, "--node-ip="+nodeIP, "--v=2")
	if err == nil {
		c.kubelet.restarts = true
	}
	return err
}

// cgroups are the directories of the kubelet's root: one, or one for each controller.
func (c *cluster) cgroups() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{filepath.Join("/sys/fs/cgroup", cgroupRoot)}
	}
	controllers, _ := filepath.Glob("/sys/fs/cgroup/*/tasks")
	for i, file := range controllers {
		controllers[i] = filepath.Join(filepath.Dir(file), cgroupRoot)
	}
	return controllers
}

func (c *cluster) controllers() error {
	for _, one := range [][]string{
		{"kube-scheduler", "--kubeconfig=" + c.file("scheduler.kubeconfig"), "--leader-elect=false", "--authentication-kubeconfig=" + c.file("scheduler.kubeconfig"),
			"--authorization-kubeconfig=" + c.file("scheduler.kubeconfig")},
		{"kube-controller-manager", "--kubeconfig=" + c.file("controller-manager.kubeconfig"), "--leader-elect=false", "--use-service-account-credentials",
			"--service-account-private-key-file=" + c.file("service-account.key"), "--root-ca-file=" + c.file("ca.crt"),
			"--cluster-signing-cert-file=" + c.file("ca.crt"), "--cluster-signing-key-file=" + c.file("ca.key"),
			"--horizontal-pod-autoscaler-sync-period=5s", "--horizontal-pod-autoscaler-initial-readiness-delay=5s", "--horizontal-pod-autoscaler-cpu-initialization-period=5s"},
		{"kube-proxy", "--kubeconfig=" + c.file("proxy.kubeconfig"), "--hostname-override=" + node, "--cluster-cidr=" + pods, "--proxy-mode=iptables",
			// What is the machine's, not the namespace's.
			"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"},
	} {
		if _, err := c.start(one[0], nil, append([]string{c.program(one[0])}, one[1:]...)...); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) ready() error {
	// Without it no pod is admitted; a controller makes it.
	err := until("the default service account", time.Minute, func() error { _, err := c.kubectl("get", "serviceaccount", "default"); return err })
	if err != nil {
		return err
	}
	return c.kubelet.answers(func() error {
		out, err := c.kubectl("get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}`)
		if err == nil && !strings.HasPrefix(out, "True") {
			err = fmt.Errorf("its condition Ready is %q", out)
		}
		return err
	})
}

// stop ends everything in the order that leaves nothing, and tells of what is left.
func (c *cluster) stop() error {
	progress("end")
	if c.pki != nil && c.kubelet != nil {
		_, _ = c.kubectl("delete", "--all", "--all-namespaces", "--wait=false", "deployments,statefulsets,daemonsets,jobs,cronjobs")
		_, _ = c.kubectl("delete", "--all", "--all-namespaces", "--grace-period=1", "--timeout=120s", "pods")
	}
	var left error
	if c.containerd != nil {
		left = until("the last pod's end", time.Minute, func() error {
			out, err := c.ctr("-n", "k8s.io", "task", "list", "-q").Output()
			if err == nil && len(out) > 0 {
				err = fmt.Errorf("tasks are left: %s", strings.Fields(string(out)))
			}
			return err
		})
	}
	for n := len(c.processes) - 1; n >= 0; n-- {
		c.processes[n].stop()
	}
	if left == nil {
		left = c.leftovers()
	}
	for _, dir := range c.cgroups() {
		removeTree(dir)
	}
	return left
}

// leftovers are the processes of pods that outlived them.
func (c *cluster) leftovers() error {
	return until("the last shim's end", 20*time.Second, func() error {
		var left []string
		for _, dir := range c.cgroups() {
			_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
				if filepath.Base(path) == "cgroup.procs" {
					text, _ := os.ReadFile(path)
					for pid := range strings.FieldsSeq(string(text)) {
						name, _ := os.ReadFile("/proc/" + pid + "/comm")
						left = append(left, pid+" "+strings.TrimSpace(string(name)))
					}
				}
				return nil
			})
		}
		shims, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range shims {
			text, _ := os.ReadFile(path)
			if strings.Contains(string(text), "containerd-shim") && strings.Contains(string(text), c.dir) {
				left = append(left, filepath.Base(filepath.Dir(path))+" "+strings.ReplaceAll(string(text), "\x00", " "))
			}
		}
		if left != nil {
			return fmt.Errorf("processes are left: %q", left)
		}
		return nil
	})
}

// removeTree removes a control group and those in it.
func removeTree(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeTree(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir)
}

// shell runs a script that stops at its first error.
func shell(script string) error {
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
