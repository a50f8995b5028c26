package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMountPoint: what the container's files say leads no further than its root.
func TestMountPoint(t *testing.T) {
	outside, inside := t.TempDir(), t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(inside, "away")))
	must(t, os.Symlink("../../../../../../../..", filepath.Join(inside, "up")))
	must(t, os.Symlink("loop", filepath.Join(inside, "loop")))
	must(t, os.WriteFile(filepath.Join(inside, "file"), nil, 0o600))
	root, err := unix.Open(inside, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(root)
	for _, row := range []struct {
		name string
		file bool
		want string // below the root; "" is refused
	}{
		{"/a/b/c", false, "a/b/c"},
		{"/a/b/f", true, "a/b/f"},
		{"/a/b/f", true, "a/b/f"},
		{"../../x", false, "x"},
		{"/up/y", false, "y"},
		{"/away/z", false, ""}, // it would be there in the container, and is not
		{"/file", true, "file"},
		{"/file/d", false, ""},
		{"/loop/d", false, ""},
		{"/", false, "."},
	} {
		fd, err := mountPoint(root, row.name, row.file)
		if row.want == "" {
			if err == nil {
				t.Errorf("%s: a place for a mount", row.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		at, err := os.Readlink(fdPath(fd))
		unix.Close(fd)
		if want := filepath.Join(inside, row.want); err != nil || at != want {
			t.Errorf("%s: %s, want %s (%v)", row.name, at, want, err)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("made outside: %v", left)
	}
}

func TestParseOptions(t *testing.T) {
	for _, row := range []struct {
		options string
		flags   uintptr
		data    string
	}{
		{"", 0, ""},
		{"nosuid,noexec,nodev,ro", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV | unix.MS_RDONLY, ""},
		{"ro,rw", 0, ""},
		{"rbind,rprivate,ro", unix.MS_RDONLY, ""},
		{"rbind,rro,rnosuid,rnodev,rnoexec,rnoatime,rnosymfollow", unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NOSYMFOLLOW, ""},
		{"rro,rrw,rnosuid,rsuid", 0, ""},
		{"iversion,nomand,loud,size=1m", 0, "size=1m"},
		{"nosuid,mode=755,size=64k", unix.MS_NOSUID, "mode=755,size=64k"},
	} {
		flags, data := parseOptions(strings.Split(row.options, ","))
		if flags != row.flags || data != row.data {
			t.Errorf("%s: %#x, %q", row.options, flags, data)
		}
	}
}

func TestHome(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	must(t, os.WriteFile(path, []byte("root:x:0:0::/root:/bin/sh\nbad line\nuser:x:7:7::/home/user\nnone:x:8:8:::\n"), 0o600))
	for uid, want := range map[uint32]string{0: "/root", 7: "/home/user", 8: "/", 9: "/"} {
		if got := home(path, uid); got != want {
			t.Errorf("%d: %s, want %s", uid, got, want)
		}
	}
	if got := home(path+"-", 0); got != "/" {
		t.Errorf("without a file: %s", got)
	}
}

func TestLookUp(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "program"), nil, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "text"), nil, 0o644))
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	env := []string{"PATH=/nowhere:" + dir}
	for _, row := range []struct{ name, path, err string }{
		{"program", dir + "/program", ""},
		{dir + "/program", dir + "/program", ""},
		{"missing", "", `exec: "missing": executable file not found in $PATH`},
		{"text", "", `exec: "text": permission denied`},
		{"dir", "", `exec: "dir": permission denied`},
		{"/missing", "", `exec: "/missing": no such file or directory`},
	} {
		path, err := lookUp(row.name, env)
		if path != row.path || (err == nil) != (row.err == "") || err != nil && err.Error() != row.err {
			t.Errorf("%s: %q, %v", row.name, path, err)
		}
	}
	if _, err := lookUp("missing", env); !errors.Is(err, unix.ENOENT) {
		t.Error("a program that is not there is no ENOENT")
	}
}

func TestCapabilities(t *testing.T) {
	if set, err := capabilities("effective", []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}); err != nil || set != 1|1<<unix.CAP_CHECKPOINT_RESTORE {
		t.Errorf("%#x, %v", set, err)
	}
	if _, err := capabilities("effective", []string{"CAP_FLY"}); err == nil {
		t.Error("a capability that is none was taken")
	}
}

// TestDescribe looks at a process of its own.
func TestDescribe(t *testing.T) {
	c := exec.Command("sleep", "1000")
	must(t, c.Start())
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	list := describe("/proc", []int{os.Getpid(), c.Process.Pid, 1 << 30})
	if len(list) != 2 {
		t.Fatalf("%d processes", len(list))
	}
	p := list[1]
	if int(p.Pid) != innerPID(c.Process.Pid) || int(p.Parent) != innerPID(os.Getpid()) || p.Threads != 1 || p.Uid != uint32(os.Geteuid()) || list[0].Memory == 0 || list[0].Threads < 2 {
		t.Errorf("%v", list)
	}
	if !ends(unix.SIGTERM) || ends(unix.SIGWINCH) || ends(unix.SIGKILL) {
		t.Error("which signals end a process")
	}
}

// TestFilter: a program without privileges has a filter that a privileged process set,
// and none of that one's capabilities.
func TestFilter(t *testing.T) {
	if os.Getenv("BULKHEAD_TEST_FILTER") != "" {
		runtime.LockOSThread()
		st := &stage{
			Process: &specs.Process{User: specs.User{UID: 7, GID: 7}, Args: []string{"grep", "-E", "^(Uid|Cap(Prm|Eff)|NoNewPrivs|Seccomp):", "/proc/self/status"}},
			Filter:  []byte{unix.BPF_RET, 0, 0, 0, 0, 0, 0xff, 0x7f}, // SECCOMP_RET_ALLOW
		}
		err := st.limit()
		if err == nil {
			err = st.becomeUser()
		}
		if err == nil {
			err = st.execute("/bin/grep")
		}
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	self, err := os.Executable()
	must(t, err)
	c := exec.Command(self, "-test.run", "^TestFilter$")
	c.Env = append(stageEnvironment, "BULKHEAD_TEST_FILTER=1")
	out, err := c.CombinedOutput()
	const want = "Uid:\t7\t7\t7\t7\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
	if err != nil || string(out) != want {
		t.Errorf("%v: %s\nwant %s", err, out, want)
	}
}

// TestBegin: a guest begins once, with random numbers, and has no container before.
func TestBegin(t *testing.T) {
	s := &server{containers: map[string]*container{}, stages: map[int]*waiting{}}
	r := &rpc.CreateRequest{Container: "c", Spec: []byte(`{"process":{"args":["true"]},"root":{"path":"r"}}`)}
	if err := s.create(t.Context(), r); err == nil || len(s.containers) != 0 {
		t.Errorf("a container before Begin: %v", err)
	}
	for _, n := range []int{0, mostEntropy + 1} {
		if err := seed(make([]byte, n)); err == nil {
			t.Errorf("a seed of %d bytes was taken", n)
		}
	}
	s.begun = true
	if err := s.begin(&rpc.BeginRequest{Time: 1}); err == nil {
		t.Error("it began twice")
	}
}

// TestLacks: what a kernel has not is told with the option that it was built without.
func TestLacks(t *testing.T) {
	root := t.TempDir()
	for _, n := range needs[:2] {
		must(t, os.MkdirAll(root+strings.ReplaceAll(n.path, "*", "virtio0"), 0o700))
	}
	got := lacks(root)
	for i, n := range needs {
		if strings.Contains(got, n.option) != (i >= 2) {
			t.Errorf("%s: %s", n.what, got)
		}
	}
}

// TestGroupFiles: what is no setting of the group is named, and the rest is set.
func TestGroupFiles(t *testing.T) {
	dir := t.TempDir()
	g := &group{path: dir}
	must(t, os.WriteFile(filepath.Join(dir, "cpu.weight"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	must(t, g.set(map[string]string{"cpu.weight": "7", "memory.swap.max": "0"}))
	if b, err := os.ReadFile(filepath.Join(dir, "cpu.weight")); err != nil || string(b) != "7" {
		t.Errorf("%q, %v", b, err)
	}
	for name, want := range map[string]string{
		"cpu.none":      "control group: the guest's kernel has no cpu.none: no such file or directory",
		"../cpu.weight": `control group: "../cpu.weight" is no file of one: invalid argument`,
		"..":            `control group: ".." is no file of one: invalid argument`,
		"":              `control group: "" is no file of one: invalid argument`,
		"sub":           `control group: sub does not take "1": is a directory`,
	} {
		if err := g.set(map[string]string{name: "1", "cpu.weight": "8"}); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", name, err, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cpu.weight")); err != nil || string(b) != "8" {
		t.Errorf("beside what cannot be set: %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cpu.none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
}
