package gofer

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	gofers "bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/gofertest"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func TestMain(m *testing.M) { gofertest.Main(m) }

// attach gives the root of a gofer with one attachment.
func attach(t testing.TB, arena *memory.Arena, m gofers.Mount) *FS {
	t.Helper()
	all, err := Attach(gofertest.Dial(t, gofers.Config{Root: m, Debug: true}), arena)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// tempDir is an empty directory that anybody may pass through.
func tempDir(t testing.TB) string {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLikeLinux(t *testing.T) {
	for name, m := range map[string]gofers.Mount{"exclusive": {Exclusive: true}, "shared": {}} {
		t.Run(name, func(t *testing.T) {
			fstest.Compare(t, fstest.Config{
				Linux: func(_ *testing.T, dir string) error { return fstest.MountTmpfs(dir) },
				Sentry: func(t *testing.T, arena *memory.Arena) vfs.FileSystem {
					m.Source = tempDir(t)
					m.Devices = true
					if err := fstest.MountTmpfs(m.Source); err != nil {
						t.Fatal(err)
					}
					return attach(t, arena, m)
				},
				Xattrs: []string{"user.a", "user.b", "wrong.e", "user.", ""},
				Seeds:  8, Steps: 250,
			})
		})
	}
}

func TestMasks(t *testing.T) {
	if vfs.SetMode != 1 || vfs.SetUID != 2 || vfs.SetGID != 4 || vfs.SetSize != 8 || vfs.SetAtime != 16 || vfs.SetMtime != 32 {
		t.Error("vfs's masks are not the protocol's any more: SetAttr copies them")
	}
	_ = unix.O_RDONLY
}

func TestHammer(t *testing.T) {
	for _, exclusive := range []bool{true, false} {
		fstest.Hammer(t, func(t *testing.T, arena *memory.Arena) vfs.FileSystem {
			return attach(t, arena, gofers.Mount{Source: tempDir(t), Exclusive: exclusive})
		}, 8, 400)
	}
}
