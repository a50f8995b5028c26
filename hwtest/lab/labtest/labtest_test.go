package labtest

import (
	"os"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"
)

func TestInside(t *testing.T) {
	if !Inside(t, lab.Machine{}) {
		return
	}
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !strings.Contains(string(cpus), " svm ") {
		t.Errorf("no AMD-V inside: %v\n%s", err, cpus)
	}
	if _, err := os.Stat("labtest.go"); err != nil {
		t.Error("the package's directory is not here:", err)
	}
	t.Run("subtest", func(*testing.T) {})
}

func TestOnly(t *testing.T) {
	for name, want := range map[string]string{
		"TestA":         "^TestA$",
		"TestA/b+c/d_1": `^TestA$/^b\+c$/^d_1$`,
	} {
		if got := only(name); got != want {
			t.Errorf("only(%q) = %s, want %s", name, got, want)
		}
	}
}
