package shim

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketDir    = "/run/containerd/s" // where containerd's own shims have theirs
	addressFile  = "address"           // in the bundle, for who starts a pod's further containers
	socketFD     = 3
	socketScheme = "unix://"
)

// groupAnnotations name the pod, whose containers have one shim: containerd's CRI, CRI-O,
// and containerd's own for all else.
var groupAnnotations = []string{"io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID", "io.containerd.runc.v2.group"}

// start has a shim for the container, a new one or the pod's, and prints its address.
// The working directory is the bundle.
func (p Program) start(f *flags) error {
	group, err := groupOf("config.json", f.id)
	if err != nil {
		return err
	}
	path := socketPath(f.address, f.namespace, group)
	address := socketScheme + path
	l, err := listen(path)
	if errors.Is(err, errTaken) {
		// The pod's shim, which is well, has this one, too.
		return announce(address)
	}
	if err != nil {
		return fmt.Errorf("make the shim's socket: %w", err)
	}
	// What fails from here on takes the socket with it.
	err = p.spawn(f, l)
	if err == nil {
		err = announce(address)
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

// announce tells containerd, and who starts a further container of the pod.
func announce(address string) error {
	if err := writeFile(addressFile, []byte(address)); err != nil {
		return err
	}
	_, err := os.Stdout.WriteString(address)
	return err
}

// groupOf reads of a container's specification with which others it has its shim.
func groupOf(config, id string) (string, error) {
	data, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("%s: %w", config, err)
	}
	for _, name := range groupAnnotations {
		if group := spec.Annotations[name]; group != "" {
			return group, nil
		}
	}
	return id, nil
}

// socketPath is short whatever the names are: 107 bytes are the most of a socket's
// (unix(7)).
func socketPath(containerd, namespace, group string) string {
	sum := sha256.Sum256([]byte(filepath.Join(containerd, namespace, group) + "\x00bulkhead"))
	return fmt.Sprintf("%s/%x", socketDir, sum)
}

// errTaken says that somebody listens there already.
var errTaken = errors.New("in use")

// listen makes the socket. One that a killed shim has left is taken away.
func listen(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			l.SetUnlinkOnClose(false)
			defer l.Close()
			if err := os.Chmod(path, 0o600); err != nil {
				return nil, err
			}
			return l.File()
		}
		if !errors.Is(err, unix.EADDRINUSE) || again {
			return nil, err
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, errTaken
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}

// spawn starts the shim that stays. It is this program with the socket as descriptor 3.
func (p Program) spawn(f *flags, socket *os.File) error {
	defer socket.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	args := []string{Name, "-namespace", f.namespace, "-id", f.id, "-address", f.address}
	if f.debug {
		args = append(args, "-debug")
	}
	// A shim waits most of its life: little room for garbage, and few threads.
	env := append(os.Environ(), "GOMAXPROCS=2", "GOGC=40")
	shim, err := os.StartProcess("/proc/self/exe", args, &os.ProcAttr{
		Files: []*os.File{null, null, null, socket}, Env: env, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start the shim: %w", err)
	}
	lowerInOOM(shim.Pid)
	if err := writeFile("shim.pid", []byte(strconv.Itoa(shim.Pid))); err != nil {
		shim.Kill()
		return err
	}
	return shim.Release()
}

// lowerInOOM has the shim killed for want of memory before containerd, but long before
// that what it holds. A host that refuses loses an order, not the shim.
func lowerInOOM(pid int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid()))
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return
	}
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(min(score+1, 1000))), 0)
}
