package overlay

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/fs/gofer"
	"bulkhead/sentry/fs/tmpfs"
	gofers "bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/gofertest"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func TestMain(m *testing.M) { gofertest.Main(m) }

// fill makes the image: names that random operations meet.
func fill(t *testing.T, root string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"a", "a/a", "a/a/a", "a/b", "b", "b/c", "c", "d"} {
		must(os.Mkdir(filepath.Join(root, d), 0o777))
		must(os.Chmod(filepath.Join(root, d), 0o777))
	}
	for n, f := range []string{"e", "a/e", "a/a/s", "a/b/d", "b/a", "b/c/a", "b/c/b", "c/a", "s"} {
		p := filepath.Join(root, f)
		must(os.WriteFile(p, []byte(fmt.Sprintf("%0*d", 1000*n, n)), 0o666))
		must(os.Chmod(p, 0o666))
		must(os.Chown(p, 1000*(n%2), 0))
	}
	must(unix.Setxattr(filepath.Join(root, "e"), "user.a", []byte("below"), 0))
	must(os.Link(filepath.Join(root, "e"), filepath.Join(root, "b/e")))
	must(os.Link(filepath.Join(root, "e"), filepath.Join(root, "a/a/e")))
	must(os.Link(filepath.Join(root, "b/a"), filepath.Join(root, "b/l")))
	must(os.Symlink("a/b", filepath.Join(root, "l")))
	must(os.Symlink("../e", filepath.Join(root, "a/l")))
	must(unix.Mknod(filepath.Join(root, "c/s"), unix.S_IFSOCK|0o666, 0))
}

// mountLinux mounts the same on dir by Linux's overlayfs.
func mountLinux(t *testing.T, dir string) error {
	if err := fstest.MountTmpfs(dir); err != nil {
		return err
	}
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	fill(t, filepath.Join(dir, "lower"))
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,redirect_dir=on,index=on,metacopy=off", dir)
	if err := unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return unix.Mount(filepath.Join(dir, "merged"), dir, "", unix.MS_BIND, "")
}

// layers makes ours: a gofer's tree below, and above it memory, or the gofer's, too.
func layers(t *testing.T, arena *memory.Arena, inMemory bool) *FS {
	low, high := t.TempDir(), t.TempDir()
	for _, d := range []string{low, high} {
		if err := fstest.MountTmpfs(d); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, low)
	all, err := gofer.Attach(gofertest.Dial(t, gofers.Config{
		Root:    gofers.Mount{Source: low, ReadOnly: true, Exclusive: true},
		Overlay: &gofers.Mount{Source: high, Exclusive: true},
		Debug:   true,
	}), arena)
	if err != nil {
		t.Fatal(err)
	}
	var above vfs.FileSystem = all[1]
	if inMemory {
		above = tmpfs.New(arena, tmpfs.Options{Mode: 0o755})
	}
	upper, work, err := Prepare(above)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := New(Options{Upper: upper, Work: work, Lowers: []vfs.Directory{all[0].Root().(vfs.Directory)}, Statfs: above.Statfs, Sync: above.Sync})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// tell leaves out how many names a directory's layer has: Linux copies
// directories up before it knows whether the operation will succeed, and all
// names of a file with several when they are looked at.
func tell(path string, a *vfs.Attr, _, written bool) string {
	if a.Type() != unix.S_IFDIR {
		return fstest.Tell(path, a, false, written)
	}
	b := *a
	b.Nlink, b.Size = 0, 0
	return fstest.Tell(path, &b, false, written)
}

func weights() map[string]int {
	w := maps.Clone(fstest.Weights)
	w["fstat"] = 0 // of a directory: see tell
	return w
}

// TestLikeLinux has two ways: with times, for which everything is copied up at
// once, and without.
func TestLikeLinux(t *testing.T) {
	for _, row := range []struct {
		name     string
		inMemory bool
		still    bool
	}{
		{"memory above", true, true}, {"directory above", false, true},
		{"memory above with times", true, false}, {"directory above with times", false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := fstest.Config{
				Linux:  mountLinux,
				Sentry: func(t *testing.T, arena *memory.Arena) vfs.FileSystem { return layers(t, arena, row.inMemory) },
				Xattrs: []string{"user.a", "user.b", "wrong.e", "user.", ""},
				Still:  row.still,
				Tell:   tell, Weights: weights(),
				Seeds: 5, Steps: 200,
			}
			fstest.Compare(t, c)
		})
	}
}

func TestHammer(t *testing.T) {
	for _, inMemory := range []bool{true, false} {
		done := make(chan bool)
		go func() { // the layers are mounts of this goroutine's thread
			defer close(done)
			fstest.Unshare(t)
			fstest.Hammer(t, func(t *testing.T, arena *memory.Arena) vfs.FileSystem { return layers(t, arena, inMemory) }, 8, 400)
		}()
		<-done
	}
}
