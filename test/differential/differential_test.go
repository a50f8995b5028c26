// Package differential runs small programs natively and in the sandbox on each
// platform: Linux fills in the expected column. Every line that a program
// prints, and its exit status, must agree byte for byte.
package differential

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bulkhead/test/rig"
)

// corpus compiles testdata/corpus. Its cases pass bad pointers and sizes on
// purpose, which gcc would warn of.
func corpus(t *testing.T, compiler string, flags ...string) string {
	t.Helper()
	sources, err := filepath.Glob("testdata/corpus/*.c")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "corpus")
	args := append([]string{compiler, "-O1", "-w"}, flags...)
	rig.Compile(t, out, append(append(args, sources...), "-lutil", "-lrt", "-lpthread")...)
	return out
}

func cases(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.Command(program, "-l").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(out))
	// Elsewhere Linux gives cores to a program, or other names.
	if pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || string(pattern) != "core\n" {
		t.Logf("without core_*: kernel.core_pattern is %q here", pattern)
		names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, "core_") })
	}
	return names
}

// TestStatic runs each case in a sandbox of its own, static against glibc.
func TestStatic(t *testing.T) {
	rig.NeedRoot(t)
	program := corpus(t, "gcc", "-static")
	for _, name := range cases(t, program) {
		t.Run(name, func(t *testing.T) {
			command := rig.Command{Args: []string{program, name}}
			want := command.Native(t)
			rig.EachPlatform(t, func(t *testing.T, platform string) {
				rig.Compare(t, want, command.In(t, platform))
			})
		})
	}
}

// TestDynamic runs all cases one after the other in one sandbox, with each libc's loader.
func TestDynamic(t *testing.T) {
	rig.NeedRoot(t)
	// musl-gcc leaves out the kernel's headers, which are glibc's neighbours.
	kernel := []string{"-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"}
	for compiler, flags := range map[string][]string{"gcc": nil, "musl-gcc": kernel} {
		t.Run(compiler, func(t *testing.T) {
			rig.Need(t, compiler)
			command := rig.Command{Args: []string{corpus(t, compiler, flags...), "-a"}}
			want := command.Native(t)
			rig.EachPlatform(t, func(t *testing.T, platform string) {
				rig.Compare(t, want, command.In(t, platform))
			})
		})
	}
}

// TestGo runs a static Go program's cases: its run time asks other things of a kernel than libc's.
func TestGo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "goprogram")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./testdata/goprogram")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range cases(t, program) {
		t.Run(name, func(t *testing.T) {
			command := rig.Command{Args: []string{program, name}}
			want := command.Native(t)
			rig.EachPlatform(t, func(t *testing.T, platform string) {
				rig.Compare(t, want, command.In(t, platform))
			})
		})
	}
}
