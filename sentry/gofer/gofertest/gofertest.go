// Package gofertest runs a real gofer for tests: the test's own binary once more, as
// the process that it is in production, jail included. Packages that use it
// call Main from TestMain.
package gofertest

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/wire"
)

const child = "BULKHEAD_GOFERTEST"

// Main is m.Run, or the gofer if Start executed us.
func Main(m *testing.M) {
	if os.Getenv(child) != "" {
		os.Exit(gofer.Main(nil))
	}
	os.Exit(m.Run())
}

// Gofer is a running gofer.
type Gofer struct {
	Socket int // the Sentry's end; the test's to close, or NewConn's
	Cmd    *exec.Cmd
	log    sync.WaitGroup
	text   strings.Builder
}

// Start runs a gofer with config, and has it end with the test.
func Start(t testing.TB, config gofer.Config) *Gofer {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the gofer copies mounts and makes namespaces")
	}
	if cgo {
		t.Skip("needs a build without the race detector: that brings cgo, which hides its threads from the gofer")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := &Gofer{Socket: pair[0]}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("config", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	conf, sock := os.NewFile(uintptr(fd), "config"), os.NewFile(uintptr(pair[1]), "socket")
	conf.Write(raw)
	logR, logW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, _ := os.Open(os.DevNull)
	g.Cmd = exec.Command("/proc/self/exe")
	g.Cmd.Args = []string{"bulkhead-gofer"}
	g.Cmd.Env = append(os.Environ(), child+"=1")
	g.Cmd.ExtraFiles = []*os.File{conf, sock, null, null, logW}
	g.Cmd.Stderr = os.Stderr
	g.Cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	if err := g.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{conf, sock, null, logW} {
		f.Close()
	}
	g.log.Go(func() { io.Copy(&g.text, logR); logR.Close() })
	t.Cleanup(func() {
		unix.Shutdown(g.Socket, unix.SHUT_RDWR) // EBADF if the connection has been closed
		if err := g.Cmd.Wait(); err != nil || strings.Contains(g.Log(), "ERROR") {
			t.Errorf("the gofer ended with %v, and said %s", err, g.Log())
		}
	})
	return g
}

// Log is what the gofer said until its end.
func (g *Gofer) Log() string {
	g.log.Wait()
	return g.text.String()
}

// Dial is Start with a connection.
func Dial(t testing.TB, config gofer.Config) *wire.Conn {
	t.Helper()
	g := Start(t, config)
	c, err := wire.NewConn(g.Socket)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
