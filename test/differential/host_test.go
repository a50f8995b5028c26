package differential

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bulkhead/test/rig"
)

// TestHost is about a directory that the host has a hand in, too: a server's
// socket in it, and a swap of links as kubelet makes it for a ConfigMap.
func TestHost(t *testing.T) {
	program := filepath.Join(t.TempDir(), "goprogram")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./testdata/goprogram")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("/tmp", "bulkhead-host-") // a path of one length, for the socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "config")
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answer(t, c.(*net.UnixConn), config)
		}
	}()
	command := rig.Command{Args: []string{program, "host", dir}}
	prepare := func() {
		os.RemoveAll(config)
		os.MkdirAll(filepath.Join(config, "..1"), 0o755)
		os.WriteFile(filepath.Join(config, "..1/key"), []byte("one"), 0o644)
		os.Symlink("..1", filepath.Join(config, "..data"))
		os.Symlink("..data/key", filepath.Join(config, "key"))
	}
	prepare()
	want := command.Native(t)
	command.Flags = []string{"--rw", dir}
	rig.EachPlatform(t, func(t *testing.T, platform string) {
		prepare()
		rig.Compare(t, want, command.In(t, platform))
	})
}

// answer sends back much of what comes, and then changes the directory.
func answer(t *testing.T, c *net.UnixConn, config string) {
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
		return
	}
	for range 10000 {
		c.Write(b)
	}
	os.Mkdir(filepath.Join(config, "..2"), 0o755)
	os.WriteFile(filepath.Join(config, "..2/key"), []byte("two"), 0o644)
	os.Symlink("..2", filepath.Join(config, "..tmp"))
	os.Rename(filepath.Join(config, "..tmp"), filepath.Join(config, "..data"))
}
