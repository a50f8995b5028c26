package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/test/rig"
)

// counted starts verb with the program's output in a file, and gives what tells it.
func (p *program) counted(t *testing.T, verb ...string) (lines func(atLeast int) []string) {
	t.Helper()
	out := p.detached(t, verb...)
	return func(atLeast int) []string {
		t.Helper()
		for end := time.Now().Add(rig.Limit); ; time.Sleep(5 * time.Millisecond) {
			b, err := os.ReadFile(out)
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

// counterRoot is a root file system with counter.
func counterRoot(t *testing.T) string {
	rig.NeedRoot(t)
	rig.Need(t, "gcc")
	root := t.TempDir()
	rig.Compile(t, filepath.Join(root, "counter"), "gcc", "-O1", "-static", "testdata/counter.c")
	for _, dir := range []string{"proc", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestCheckpoint: a program that is saved, ended and restored prints what one does that ran
// through; what cannot be saved is named, and goes on.
func TestCheckpoint(t *testing.T) {
	root := counterRoot(t)
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

		// Another program by the name of what is mapped.
		other := filepath.Join(root, "counter")
		was, err := os.Stat(other)
		if err != nil {
			t.Fatal(err)
		}
		defer os.Chtimes(other, was.ModTime(), was.ModTime())
		if err := os.Chtimes(other, was.ModTime(), was.ModTime().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if r := p.do(t, "restore", "--image-path", image, "--bundle", b, id(t)+"-other"); r.Code == 0 || !strings.Contains(r.Err, "/counter has changed") {
			t.Errorf("changed program: %s", r)
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

// TestCheckpointNotKept: an image that cannot have its name is none, and the container goes on.
func TestCheckpointNotKept(t *testing.T) {
	root := counterRoot(t)
	eachPlatform(t, func(t *testing.T, p *program) {
		name, image := id(t), t.TempDir()
		t.Cleanup(func() { p.do(t, "delete", "--force", name) })
		lines := p.counted(t, "run", "--detach", "--bundle", bundle(t, func(s *specs.Spec) { s.Root.Path = root }, "/counter"), name)
		lines(1)
		if err := os.MkdirAll(filepath.Join(image, "bulkhead.img", "in the way"), 0o755); err != nil {
			t.Fatal(err)
		}
		if r := p.do(t, "checkpoint", "--image-path", image, name); r.Code == 0 || !strings.Contains(r.Err, "bulkhead.img") {
			t.Errorf("%s", r)
		}
		lines(len(lines(0)) + 3)
	})
}
