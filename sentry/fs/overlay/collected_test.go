package overlay

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"weak"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/fs/gofer"
	"bulkhead/sentry/fs/tmpfs"
	gofers "bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/gofertest"
	"bulkhead/sentry/vfs"
)

// TestCollected: nothing keeps an overlay that nobody has mounted any more, nor the gofer's
// files beneath it, however much of it was looked at.
func TestCollected(t *testing.T) {
	below := t.TempDir()
	if err := os.Mkdir(filepath.Join(below, "there"), 0o755); err != nil {
		t.Fatal(err)
	}
	arena := fstest.NewArena(t)
	conn := gofertest.Dial(t, gofers.Config{Root: gofers.Mount{Source: below, ReadOnly: true, Exclusive: true}})
	mounted := func() (weak.Pointer[FS], weak.Pointer[gofer.FS]) {
		all, err := gofer.Attach(conn, arena)
		if err != nil {
			t.Fatal(err)
		}
		upper, work, err := Prepare(tmpfs.New(arena, tmpfs.Options{Mode: 0o755}))
		if err != nil {
			t.Fatal(err)
		}
		fs, err := New(Options{Upper: upper, Work: work, Lowers: []vfs.Directory{all[0].Root().(vfs.Directory)}, Release: all[0].Release})
		if err != nil {
			t.Fatal(err)
		}
		ctx := vfs.SentryContext()
		ns := vfs.NewNamespace(fs, vfs.MountOptions{})
		start := vfs.Start{Root: ns.Root(), At: ns.Root()}
		if err := vfs.Mkdir(ctx, start, "there/made", 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"there/made", "missing"} {
			if _, err := vfs.Resolve(ctx, start, name, 0); err != nil && err != unix.ENOENT {
				t.Fatal(err)
			}
		}
		ns.Drop()
		return weak.Make(fs), weak.Make(all[0])
	}
	fs, files := mounted()
	for range 20 { // inodes first, and what their cleanups let go of next
		runtime.GC()
	}
	if fs.Value() != nil || files.Value() != nil {
		t.Errorf("still there: the overlay %t, the gofer's files %t", fs.Value() != nil, files.Value() != nil)
	}
}
