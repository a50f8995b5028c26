package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"bulkhead/test/rig"
)

// kubelet is a client as Kubernetes' is one, of a containerd whose pods have a network by CNI.
type kubelet struct {
	cri.RuntimeServiceClient
	d       *daemon
	handler string
	logs    string
}

// launchCRI starts containerd with its CRI plugin in a network namespace of its own, with a
// handler for each column.
func launchCRI(t *testing.T) (*daemon, []column) {
	t.Helper()
	rig.Need(t, "containerd", "ctr", "runc", "busybox", "ip")
	const plugins = "/usr/lib/cni"
	for _, p := range []string{"ptp", "host-local", "loopback"} {
		if _, err := os.Stat(filepath.Join(plugins, p)); err != nil {
			t.Skipf("needs CNI's plugins: %v: apt-get install containernetworking-plugins", err)
		}
	}
	d := prepare(t)
	columns := slices.DeleteFunc(d.columns(t), func(c column) bool { return c.state == "" })
	net := filepath.Join(d.dir, "net")
	config := fmt.Sprintf(`
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = %q
`, pauseImage, plugins, net, columns[0].name)
	for _, c := range columns {
		config += fmt.Sprintf("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%s]\n  runtime_type = %q\n", c.name, ours)
		config += fmt.Sprintf("  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%s.options]\n    ConfigPath = %q\n", c.name, filepath.Join(d.dir, c.name+".toml"))
	}
	if err := os.Mkdir(net, 0o755); err != nil {
		t.Fatal(err)
	}
	list := fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": false,
		"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.88.77.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, filepath.Join(d.dir, "ipam"))
	if err := os.WriteFile(filepath.Join(net, "10-pods.conflist"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	d.alone = true
	d.launch(t, config)
	d.must(t, "-n", "k8s.io", "image", "import", boxImage(t, image, "sh"))
	d.must(t, "-n", "k8s.io", "image", "import", boxImage(t, pauseImage, "sleep", "1000000"))
	return d, columns
}

func (d *daemon) kubelet(t *testing.T, handler string) *kubelet {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+d.sock, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &kubelet{cri.NewRuntimeServiceClient(conn), d, handler, t.TempDir()}
}

// must is for calls that are to succeed.
func must[Q, A any](t *testing.T, call func(context.Context, Q, ...grpc.CallOption) (A, error), q Q) A {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience())
	defer cancel()
	a, err := call(ctx, q)
	if err != nil {
		t.Fatalf("%T: %v", q, err)
	}
	return a
}

func (k *kubelet) pod(t *testing.T, name string) (string, *cri.PodSandboxConfig) {
	t.Helper()
	group := filepath.Base(filepath.Dir(k.d.dir)) + "-" + name
	t.Cleanup(func() { // as the kubelet does, whose it is
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + group)
		for _, g := range append(groups, "/sys/fs/cgroup/"+group) {
			_ = os.Remove(g)
		}
	})
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"}, Hostname: name, LogDirectory: k.logs,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/" + group,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: ownPIDs()},
		},
	}
	return must(t, k.RunPodSandbox, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: k.handler}).PodSandboxId, config
}

// ownPIDs is what the kubelet asks for unless a pod says otherwise.
func ownPIDs() *cri.NamespaceOption { return &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER} }

// container starts one of a pod.
func (k *kubelet) container(t *testing.T, pod string, of *cri.PodSandboxConfig, name string, change func(*cri.ContainerConfig), command ...string) string {
	t.Helper()
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: image}, Command: command, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{}, SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: ownPIDs()}},
	}
	if change != nil {
		change(config)
	}
	id := must(t, k.CreateContainer, &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: of}).ContainerId
	must(t, k.StartContainer, &cri.StartContainerRequest{ContainerId: id})
	return id
}

// exec is what a probe does.
func (k *kubelet) exec(t *testing.T, id string, command ...string) string {
	t.Helper()
	r := must(t, k.ExecSync, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64(patience().Seconds())})
	return fmt.Sprintf("%s%s%d\n", r.Stdout, r.Stderr, r.ExitCode)
}

// ended waits until a container has, and says how.
func (k *kubelet) ended(t *testing.T, id string) string {
	t.Helper()
	var s *cri.ContainerStatus
	until(t, "a container has ended", func() bool {
		s = must(t, k.ContainerStatus, &cri.ContainerStatusRequest{ContainerId: id}).Status
		return s.State == cri.ContainerState_CONTAINER_EXITED
	})
	return fmt.Sprintln(s.ExitCode, s.Reason)
}

// log is what a container has written, as the kubelet keeps it (KEP 2411: time, stream, P or F).
func (k *kubelet) log(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(k.logs, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]string{} // one stream has no order with the other
	for line := range strings.Lines(string(text)) {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			of[f[1]] += f[3]
		}
	}
	return of["stdout"] + of["stderr"]
}

// remove ends a pod and what is in it.
func (k *kubelet) remove(t *testing.T, pod string) {
	t.Helper()
	must(t, k.StopPodSandbox, &cri.StopPodSandboxRequest{PodSandboxId: pod})
	must(t, k.RemovePodSandbox, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
}

// life is a pod's: three containers that share what Kubernetes says they do.
func (k *kubelet) life(t *testing.T) string {
	var said strings.Builder
	say := func(what, text string) { fmt.Fprintf(&said, "%s: %s", what, text) }
	pod, of := k.pod(t, "pod")
	status := must(t, k.PodSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: pod}).Status
	if net.ParseIP(status.Network.GetIp()) == nil {
		t.Errorf("the pod has no address: %v", status)
	}
	volume := t.TempDir()
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	shared := func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/volume"}}
	}
	server := k.container(t, pod, of, "server", shared, "sh", "-c",
		`mkdir /tmp/www; echo served >/tmp/www/index.html; httpd -p 80 -h /tmp/www; nc -ll -p 7 -e cat 2>/dev/null & echo ready >/volume/ready; trap "echo bye; exit 4" TERM; echo out; echo err >&2; while :; do sleep 0.05; done`)
	until(t, "the server is ready", func() bool { _, err := os.Stat(filepath.Join(volume, "ready")); return err == nil })
	client := k.container(t, pod, of, "client", func(c *cri.ContainerConfig) {
		shared(c)
		c.Envs = []*cri.KeyValue{{Key: "GREETING", Value: []byte("hello")}}
		c.Linux.Resources.MemoryLimitInBytes = 64 << 20
		c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1000}
	}, "sleep", "1000000")
	say("localhost", k.exec(t, client, "wget", "-qO-", "http://127.0.0.1/"))
	say("its address", k.exec(t, client, "wget", "-qO-", "http://"+status.Network.Ip+"/"))
	network := k.network(t, pod)
	for _, address := range []string{"127.0.0.1:80", "[::1]:80"} {
		say("forwarded", served(forwarded(t, network, address)))
	}
	say("there and back", echoed(forwarded(t, network, "127.0.0.1:7")))
	broken(t, forwarded(t, network, "127.0.0.1:7"))
	say("broken off", k.exec(t, server, "sh", "-c", "while pidof cat >/dev/null; do sleep 0.05; done"))
	nobody, err := dialIn(network, "127.0.0.1:9")
	if err == nil { // it may be told at once
		_, err = nobody.Read(make([]byte, 1))
		nobody.Close()
	}
	say("nobody", fmt.Sprintln(errors.Is(err, unix.ECONNRESET)))
	say("who", k.exec(t, client, "sh", "-c", "hostname; id -u; echo $GREETING; cat /volume/ready; ps -o comm | grep -cx sleep; exit 3"))
	say("the other's files", k.exec(t, client, "ls", "/tmp"))
	say("limit", k.exec(t, client, "sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"))
	say("namespaces", k.exec(t, client, "sh", "-c", "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done >/volume/client"))
	k.exec(t, server, "sh", "-c", "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done >/volume/server")
	say("same", same(t, volume))

	// One is killed at its limit, and started again; the others do not notice.
	for attempt := range uint32(2) {
		hog := k.container(t, pod, of, "hog", func(c *cri.ContainerConfig) {
			c.Metadata.Attempt = attempt
			c.Linux.Resources.MemoryLimitInBytes = 32 << 20
		}, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
		say("hog", k.ended(t, hog))
		must(t, k.RemoveContainer, &cri.RemoveContainerRequest{ContainerId: hog})
	}
	stats := must(t, k.ContainerStats, &cri.ContainerStatsRequest{ContainerId: client}).Stats
	say("stats", fmt.Sprintln(stats.Cpu.GetUsageCoreNanoSeconds().GetValue() > 0, stats.Memory.GetWorkingSetBytes().GetValue() > 0, stats.Memory.GetWorkingSetBytes().GetValue() < 64<<20))
	must(t, k.UpdateContainerResources, &cri.UpdateContainerResourcesRequest{ContainerId: client, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 48 << 20}})
	must(t, k.StopContainer, &cri.StopContainerRequest{ContainerId: server, Timeout: int64(patience().Seconds())})
	say("server", k.ended(t, server))
	say("its log", k.log(t, "server"))
	say("client", k.exec(t, client, "true"))
	must(t, k.RemoveContainer, &cri.RemoveContainerRequest{ContainerId: server})
	k.remove(t, pod)
	return said.String()
}

// network is the path of the namespace that the CRI plugin made for the pod.
func (k *kubelet) network(t *testing.T, pod string) string {
	t.Helper()
	info := must(t, k.PodSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true}).Info["info"]
	var of struct {
		RuntimeSpec struct {
			Linux struct{ Namespaces []struct{ Type, Path string } }
		}
	}
	if err := json.Unmarshal([]byte(info), &of); err != nil {
		t.Fatal(err)
	}
	for _, ns := range of.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" {
			return ns.Path
		}
	}
	t.Fatal("the pod has no network namespace")
	return ""
}

// forwarded connects as the CRI plugin does for kubectl port-forward, which is from within the
// pod's network namespace.
func forwarded(t *testing.T, network, address string) *net.TCPConn {
	t.Helper()
	c, err := dialIn(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func dialIn(network, address string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread is spoiled
		var ns *os.File
		if ns, err = os.Open(network); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			c, err = net.Dial("tcp", address)
		}
	}()
	<-done
	return c, err
}

// served is what a server of the pod's answers.
func served(c *net.TCPConn) string {
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return fmt.Sprintln(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return fmt.Sprintln(err)
	}
	_, body, _ := strings.Cut(string(b), "\r\n\r\n")
	return body
}

// echoed is more than all sockets on the way hold; its end is what ends the echo.
func echoed(c *net.TCPConn) string {
	data := bytes.Repeat([]byte("there and back "), 200_000)
	go func() {
		_, _ = c.Write(data) // which is counted
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	return fmt.Sprintln(len(got), bytes.Equal(got, data), err)
}

// broken is a client that breaks off while it talks and does not listen.
func broken(t *testing.T, c *net.TCPConn) {
	t.Helper()
	go func() {
		for b := make([]byte, 1<<16); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	_ = c.SetLinger(0)
	c.Close()
}

// same says which namespaces two containers share.
func same(t *testing.T, volume string) string {
	t.Helper()
	var lists [2][]string
	for i, name := range []string{"client", "server"} {
		text, err := os.ReadFile(filepath.Join(volume, name))
		if err != nil {
			t.Fatal(err)
		}
		lists[i] = strings.Fields(string(text))
	}
	var shared []string
	for i, ns := range lists[0] {
		if i < len(lists[1]) && lists[1][i] == ns {
			name, _, _ := strings.Cut(ns, ":")
			shared = append(shared, name)
		}
	}
	return fmt.Sprintln(shared)
}

// lived is what Kubernetes' documents promise. (runc's pods do not start in this daemon.)
const lived = `localhost: served
0
its address: served
0
forwarded: served
forwarded: served
there and back: 3000000 true <nil>
broken off: 0
nobody: true
who: pod
1000
hello
ready
1
3
the other's files: 0
limit: 67108864
1
namespaces: 0
same: [net ipc uts]
hog: 137 OOMKilled
hog: 137 OOMKilled
stats: true true true
server: 4 Error
its log: out
bye
err
client: 0
`

// TestPods: containerd's CRI plugin takes pods through what the kubelet does with them.
func TestPods(t *testing.T) {
	d, columns := launchCRI(t)
	for _, c := range columns {
		t.Run(c.name, func(t *testing.T) {
			k := d.kubelet(t, c.name)
			if got := k.life(t); got != lived {
				t.Errorf("%s", rig.Diff(t, lived, got))
			}
			d.nothingLeft(t, c)
		})
	}
}
