package gofer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	gofers "bulkhead/sentry/gofer"
	"bulkhead/sentry/vfs"
)

// TestIdentity: a file of the host's that two attachments have is one file as to its locks,
// unless each is said to have it alone.
func TestIdentity(t *testing.T) {
	dir := tempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx := vfs.SentryContext()
	for _, row := range []struct {
		exclusive bool
		want      error
	}{{false, unix.EWOULDBLOCK}, {true, nil}} {
		arena := fstest.NewArena(t)
		var held []*vfs.Description
		for range 2 {
			ns := vfs.NewNamespace(attach(t, arena, gofers.Mount{Source: dir, Exclusive: row.exclusive}), vfs.MountOptions{})
			d, err := vfs.Open(ctx, vfs.Start{Root: ns.Root(), At: ns.Root()}, "file", vfs.OpenHow{Flags: unix.O_RDWR})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Unref()
			held = append(held, d)
		}
		if err := vfs.Flock(held[0], unix.LOCK_EX, 1); err != nil {
			t.Fatal(err)
		}
		if err := vfs.Flock(held[1], unix.LOCK_EX, 2); err != row.want {
			t.Errorf("exclusive %t: the other's lock: %v, want %v", row.exclusive, err, row.want)
		}
		if n := len(vfs.HeldLocks()); n != 1 && !row.exclusive {
			t.Errorf("%d locks are shown, want 1", n)
		}
	}
}
