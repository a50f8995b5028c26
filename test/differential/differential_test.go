// Package differential runs small programs natively and in the sandbox on each
// platform: Linux fills in the expected column. Every line that a program
// prints, and its exit status, must agree byte for byte.
package differential

import (
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bulkhead/test/rig"
)

// builds are the ways to compile the corpus. musl-gcc leaves out the kernel's headers,
// which are glibc's neighbours.
var builds = []struct {
	name, compiler string
	flags          []string
}{
	{"static", "gcc", []string{"-static"}},
	{"dynamic", "gcc", nil},
	{"musl", "musl-gcc", []string{"-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"}},
}

// compile makes a build of testdata/corpus. Its cases pass bad pointers and sizes on
// purpose, which gcc would warn of.
func compile(t *testing.T, compiler string, flags ...string) string {
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

// batch is how many cases share a sandbox: a start costs as much as most cases do.
const batch = 30

// TestCorpus runs each case in one of the builds, which its name chooses, so that every
// build gets its share of every file; with BULKHEAD_SLOW (make test-apps) in all of them.
func TestCorpus(t *testing.T) {
	rig.NeedRoot(t)
	for i, build := range builds {
		t.Run(build.name, func(t *testing.T) {
			rig.Need(t, build.compiler)
			program := compile(t, build.compiler, build.flags...)
			names := cases(t, program)
			if os.Getenv("BULKHEAD_SLOW") == "" {
				names = slices.DeleteFunc(names, func(name string) bool {
					return crc32.ChecksumIEEE([]byte(name))%uint32(len(builds)) != uint32(i)
				})
			}
			for names := range slices.Chunk(names, batch) {
				compare(t, program, names)
			}
		})
	}
}

// compare runs cases of a program in one go, and compares each by itself.
func compare(t *testing.T, program string, names []string) {
	t.Helper()
	command := rig.Command{Args: append([]string{program}, names...)}
	native := command.Native(t)
	want := parts(native.Out)
	for _, platform := range rig.Platforms(t) {
		all := command.In(t, platform)
		if all.Err != native.Err || all.Code != native.Code {
			t.Errorf("%s exited %d, natively %d; on standard error:\n%s", platform, all.Code, native.Code, all.Err)
		}
		got := parts(all.Out)
		for _, name := range names {
			t.Run(name+"/"+platform, func(t *testing.T) {
				if want[name] == "" {
					t.Error("it printed nothing natively")
				}
				if got[name] != want[name] && nativeAtTimes(t, program, name, got[name]) {
					t.Logf("natively it prints at times what it printed here: the case leaves something to chance")
					return
				}
				rig.Compare(t, rig.Result{Out: want[name]}, rig.Result{Out: got[name]})
			})
		}
	}
}

// nativeAtTimes reports whether a case prints this natively in one of ten runs: what Linux does
// is the measure, and under load that is not always the same.
func nativeAtTimes(t *testing.T, program, name, out string) bool {
	t.Helper()
	command := rig.Command{Args: []string{program, name}}
	for range 10 {
		if parts(command.Native(t).Out)[name] == out {
			return true
		}
	}
	return false
}

// parts cuts what several cases printed at the line "==== NAME" before each.
func parts(out string) map[string]string {
	all := map[string]string{}
	for _, part := range strings.Split("\n"+out, "\n==== ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		all[name] = text
	}
	return all
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
