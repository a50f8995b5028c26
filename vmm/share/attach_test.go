package share

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"bulkhead/jail"
	"bulkhead/runtime/agent"
	"bulkhead/virtio/fs"

	"golang.org/x/sys/unix"
)

// The test program plays the share's process, and those that change it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "attach":
			os.Exit(Attach(nil))
		case "detach":
			os.Exit(Detach(nil))
		case "share":
			os.Exit(play())
		}
	}
	os.Exit(m.Run())
}

// play is a share without a machine: it says that it is there, and ends with its input.
func play() int {
	var c agent.GoferConfig
	err := json.Unmarshal([]byte(os.Args[2]), &c)
	if err == nil {
		err = assemble(&c)
	}
	var server *fs.Device
	if err == nil {
		server, err = fs.New(fs.Options{Dir: tree, Tag: "share"})
	}
	if err == nil {
		err = unix.Chdir(tree)
	}
	if err == nil {
		err = jail.ChangeRoot()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer server.Close()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func changed(t *testing.T, verb string, r *agent.AttachRequest) string {
	t.Helper()
	text, err := json.Marshal(r)
	must(t, err)
	read, write, err := os.Pipe()
	must(t, err)
	defer read.Close()
	go func() { write.Write(text); write.Close() }()
	c := exec.Command("/proc/self/exe", verb)
	c.ExtraFiles = []*os.File{read}
	out, _ := c.CombinedOutput()
	return string(out)
}

// TestAttach: a share gets the files of further containers while it is used, and loses
// them again.
func TestAttach(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for mounts")
	}
	first, second := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(second, "file"), []byte("content"), 0o644))
	text, err := json.Marshal(agent.GoferConfig{Root: agent.GoferMount{Source: first}})
	must(t, err)
	c := exec.Command("/proc/self/exe", "share", string(text))
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	input, err := c.StdinPipe()
	must(t, err)
	output, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	defer func() { input.Close(); c.Wait() }()
	b := make([]byte, 6)
	if _, err := io.ReadFull(output, b); err != nil || !bytes.Equal(b, []byte("ready\n")) {
		rest, _ := io.ReadAll(output)
		t.Fatalf("%s%s: %v", b, rest, err)
	}
	root := fmt.Sprintf("/proc/%d/root", c.Process.Pid)
	for _, name := range []string{"one", "two"} {
		r := &agent.AttachRequest{PID: c.Process.Pid, Container: name, GoferConfig: agent.GoferConfig{
			Root:   agent.GoferMount{Source: second, ReadOnly: true},
			Mounts: []agent.GoferMount{{Source: filepath.Join(second, "file")}},
		}}
		if out := changed(t, "attach", r); out != "" {
			t.Fatalf("attach: %s", out)
		}
		for _, file := range []string{"root/file", "1"} {
			if b, err := os.ReadFile(filepath.Join(root, Pods, name, file)); string(b) != "content" {
				t.Errorf("%s: %q, %v", file, b, err)
			}
		}
		if err := os.WriteFile(filepath.Join(root, Pods, name, "root/new"), nil, 0o600); err == nil {
			t.Error("what is read-only was written")
		}
		if out := changed(t, "attach", r); out == "" {
			t.Error("a container is attached twice")
		}
	}
	for range 2 { // the second time nothing is there
		if out := changed(t, "detach", &agent.AttachRequest{PID: c.Process.Pid, Container: "one"}); out != "" {
			t.Errorf("detach: %s", out)
		}
		if left, err := os.ReadDir(filepath.Join(root, Pods)); err != nil || len(left) != 1 || left[0].Name() != "two" {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "../root"} {
		if out := changed(t, "detach", &agent.AttachRequest{PID: c.Process.Pid, Container: bad}); out == "" {
			t.Errorf("the name %q is taken", bad)
		}
	}
	if b, err := os.ReadFile(filepath.Join(second, "file")); string(b) != "content" {
		t.Errorf("the container's file: %q, %v", b, err)
	}
}
