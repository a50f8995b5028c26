package gofer_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/gofertest"
)

func TestMain(m *testing.M) {
	if name := os.Getenv("GOFER_ESCAPE"); name != "" {
		gofer.Escape(name, os.Getenv("GOFER_ROOT"))
	}
	gofertest.Main(m)
}

func TestJail(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the gofer copies mounts and makes namespaces")
	}
	gofertest.Start(t, gofer.Config{Root: gofer.Mount{Source: t.TempDir()}}) // skips where it can not work
	root := tree(t)
	for name, e := range gofer.Escapes {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "GOFER_ESCAPE="+name, "GOFER_ROOT="+root)
			out, err := cmd.CombinedOutput()
			got := string(out)
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
				got = exit.Sys().(syscall.WaitStatus).Signal().String()
			}
			if got != e.Want {
				t.Errorf("got %q (%v), want %q", got, err, e.Want)
			}
		})
	}
}
