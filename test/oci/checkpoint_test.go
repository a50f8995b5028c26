package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// counted starts verb with the program's output in a file, and gives what tells it.
func (p *program) counted(t *testing.T, verb ...string) (lines func(atLeast int) []string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(p.args[0], append(slices.Clone(p.args[1:]), verb...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		t.Fatalf("%q: %v\n%s%s", verb, err, text, p.logged())
	}
	return func(atLeast int) []string {
		t.Helper()
		for end := time.Now().Add(rig.Limit); ; time.Sleep(5 * time.Millisecond) {
			b, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			l := strings.SplitAfter(string(b), "\n")
			if l = l[:len(l)-1]; len(l) >= atLeast {
				return l
			}
			if time.Now().After(end) {
				t.Fatalf("%d lines of %d:\n%s%s", len(l), atLeast, b, p.logged())
			}
		}
	}
}

// TestCheckpoint: a program that is saved, ended and restored prints what one does that ran
// through; what cannot be saved is named, and goes on.
func TestCheckpoint(t *testing.T) {
	rig.NeedRoot(t)
	rig.Need(t, "gcc")
	root := t.TempDir()
	rig.Compile(t, filepath.Join(root, "counter"), "gcc", "-O1", "-static", "testdata/counter.c")
	for _, dir := range []string{"proc", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(s *specs.Spec) { s.Root.Path = root }
	eachPlatform(t, func(t *testing.T, p *program) {
		b, image, first, second := bundle(t, edit, "/counter"), filepath.Join(t.TempDir(), "image"), id(t), id(t)+"-again"
		for _, name := range []string{first, second} {
			t.Cleanup(func() { p.do(t, "delete", "--force", name) })
		}
		lines := p.counted(t, "run", "--detach", "--bundle", b, first)
		lines(5)
		p.must(t, "checkpoint", "--leave-running", "--image-path", image, first)
		lines(len(lines(0)) + 5)
		p.must(t, "checkpoint", "--image-path", image, first)
		p.until(t, first, specs.StateStopped)
		before := lines(0)
		if st, err := os.Stat(filepath.Join(image, "bulkhead.img")); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("image: %v %v", st, err)
		}
		all := append(before, p.counted(t, "restore", "--detach", "--image-path", image, "--bundle", b, second)(5)...)
		product := 1.0
		for i, l := range all {
			product *= 1.5
			var n int
			var f float64
			if _, err := fmt.Sscanf(l, "%d %g", &n, &f); err != nil || n != i+1 || f != product {
				t.Fatalf("line %d is %q (%v); %d were before", i+1, l, err, len(before))
			}
		}
		if r := p.do(t, "checkpoint", "--parent-path", "x", second); r.Code == 0 || !strings.Contains(r.Err, "--parent-path") {
			t.Errorf("--parent-path: %s", r)
		}

		// What is no image, or a damaged one.
		whole, err := os.ReadFile(filepath.Join(image, "bulkhead.img"))
		if err != nil {
			t.Fatal(err)
		}
		whole[len(whole)-9] ^= 1
		bad := t.TempDir()
		if err := os.WriteFile(filepath.Join(bad, "bulkhead.img"), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := p.do(t, "restore", "--image-path", bad, "--bundle", b, id(t)+"-bad"); r.Code == 0 || !strings.Contains(r.Err, "damaged") {
			t.Errorf("damaged image: %s", r)
		}
	})
	t.Run("refused", func(t *testing.T) {
		eachPlatform(t, func(t *testing.T, p *program) {
			name, image := id(t), filepath.Join(t.TempDir(), "image")
			t.Cleanup(func() { p.do(t, "delete", "--force", name) })
			lines := p.counted(t, "run", "--detach", "--bundle", bundle(t, edit, "/counter", "pipe"), name)
			lines(1)
			r := p.do(t, "checkpoint", "--image-path", image, name)
			if r.Code == 0 || !strings.Contains(r.Err, "process 1: descriptor 3: pipe:[") {
				t.Errorf("%s", r)
			}
			lines(len(lines(0)) + 3) // unharmed
			if left, err := os.ReadDir(image); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	})
}
