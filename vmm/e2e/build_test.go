package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bulkhead/hwtest/lab"
)

// built is the path of a program for a guest, static, made by the go command what, as
// build, in the directory that the lab sees; in there it has been built.
func built(t *testing.T, name, what string, args ...string) string {
	t.Helper()
	dir, err := home()
	must(t, err)
	path := filepath.Join(dir, name)
	if os.Getenv(lab.Variable) != "" {
		return path
	}
	c := exec.Command("go", append([]string{what, "-ldflags", "-s -w", "-o", path}, args...)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", c, err, out)
	}
	return path
}
