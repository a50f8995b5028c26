package vfs_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/memory"
	. "bulkhead/sentry/vfs"
)

var ctx = SentryContext()

// world is a namespace of tmpfs file systems, to be driven by short commands.
type world struct {
	t     testing.TB
	arena *memory.Arena
	ns    *Namespace
	root  Path
	at    Path
}

func newWorld(t testing.TB) *world {
	t.Helper()
	a := fstest.NewArena(t)
	w := &world{t: t, arena: a}
	w.ns = NewNamespace(w.tmpfs(), MountOptions{Source: "root"})
	w.root = w.ns.Root()
	w.at = w.root
	return w
}

func (w *world) tmpfs() *tmpfs.FileSystem { return tmpfs.New(w.arena, tmpfs.Options{Mode: 0o755}) }
func (w *world) start() Start             { return Start{Root: w.root, At: w.at} }

func (w *world) path(name string) Path {
	w.t.Helper()
	p, err := Resolve(ctx, w.start(), name, ResolveNoFollow)
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	return p
}

// do runs one command and returns its result as text: "" or an errno's name.
func (w *world) do(command string) (out string) {
	w.t.Helper()
	if rest, ok := strings.CutPrefix(command, "outside "); ok {
		return (&world{t: w.t, ns: w.ns, root: w.ns.Root(), at: w.ns.Root()}).do(rest)
	}
	f := append(strings.Fields(command), "", "", "")
	s := w.start()
	on := func(name string, then func(Path) error) error {
		p, err := Resolve(ctx, s, name, 0)
		if err != nil {
			return err
		}
		return then(p)
	}
	two := func(then func(a, b Path) error) error {
		return on(f[1], func(a Path) error { return on(f[2], func(b Path) error { return then(a, b) }) })
	}
	var flags MountFlags
	for _, o := range strings.Split(f[3], ",") {
		flags |= map[string]MountFlags{"ro": unix.MS_RDONLY, "noexec": unix.MS_NOEXEC, "nodev": unix.MS_NODEV}[o]
	}
	err := func() error {
		switch f[0] {
		case "mkdir":
			return Mkdir(ctx, s, f[1], 0o755)
		case "touch":
			d, err := Open(ctx, s, f[1], OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o755})
			if err == nil {
				d.Unref()
			}
			return err
		case "symlink":
			return MakeSymlink(ctx, f[1], s, f[2])
		case "link":
			return on(f[1], func(p Path) error { return Link(ctx, p, s, f[2]) })
		case "rm":
			return Unlink(ctx, s, f[1])
		case "rmdir":
			return Rmdir(ctx, s, f[1])
		case "mv":
			return Rename(ctx, s, f[1], s, f[2], 0)
		case "chmod":
			return on(f[1], func(p Path) error { return Chmod(ctx, p, 0o700) })
		case "mount": // mount source at flags
			return on(f[2], func(p Path) error {
				return w.ns.Mount(ctx, p, w.tmpfs(), MountOptions{Source: f[1], Flags: flags})
			})
		case "bind":
			return two(func(a, b Path) error { return w.ns.Bind(ctx, a, b, false, flags) })
		case "rbind":
			return two(func(a, b Path) error { return w.ns.Bind(ctx, a, b, true, flags) })
		case "move":
			return two(func(a, b Path) error { return w.ns.Move(ctx, a, b) })
		case "remount":
			return on(f[1], func(p Path) error { return w.ns.Remount(ctx, p, flags|unix.MS_BIND, "") })
		case "remountfs":
			return on(f[1], func(p Path) error { return w.ns.Remount(ctx, p, flags, "") })
		case "umount":
			return on(f[1], func(p Path) error { return w.ns.Unmount(ctx, p, 0) })
		case "detach":
			return on(f[1], func(p Path) error { return w.ns.Unmount(ctx, p, unix.MNT_DETACH) })
		case "pivot":
			return two(func(a, b Path) error {
				err := w.ns.PivotRoot(ctx, w.root, a, b)
				if err == nil {
					w.root, w.at = a, a
				}
				return err
			})
		case "chroot":
			return on(f[1], func(p Path) error { w.root, w.at = p, p; return nil })
		case "cd":
			return on(f[1], func(p Path) error { w.at = p; return nil })
		case "exec":
			return on(f[1], func(p Path) error { return CheckAccess(ctx, p, MayExec) })
		case "access":
			return on(f[1], func(p Path) error { return CheckAccess(ctx, p, MayWrite) })
		case "xdev":
			_, err := Resolve(ctx, s, f[1], ResolveNoXdev)
			return err
		case "beneath":
			_, err := Resolve(ctx, s, f[1], ResolveBeneath)
			return err
		case "inroot":
			p, err := Resolve(ctx, s, f[1], ResolveInRoot)
			if err == nil {
				out = Name(w.root, p)
			}
			return err
		case "name":
			return on(f[1], func(p Path) error { out = Name(w.root, p); return nil })
		case "ls":
			d, err := Open(ctx, s, f[1], OpenHow{Flags: unix.O_DIRECTORY})
			if err != nil {
				return err
			}
			defer d.Unref()
			var names []string
			err = d.ReadDir(ctx, func(e Dirent) bool {
				if !strings.HasPrefix(e.Name, ".") {
					names = append(names, e.Name)
				}
				return true
			})
			slices.Sort(names)
			out = strings.Join(names, " ")
			return err
		}
		w.t.Fatalf("what is %q?", command)
		return nil
	}()
	if err != nil {
		return unix.ErrnoName(err.(unix.Errno))
	}
	return out
}

// TestMounts runs scripts: each line is a command, and after " = " what it says.
func TestMounts(t *testing.T) {
	for name, script := range map[string]string{
		"over": `
			mkdir /m
			touch /m/below
			mount one /m
			ls /m =
			touch /m/above
			ls /m = above
			mount two /m
			ls /m =
			umount /m
			ls /m = above
			umount /m
			ls /m = below
			umount /m = EINVAL
			umount / = EBUSY`,
		"dots": `
			mkdir /a
			mkdir /a/b
			mount one /a/b
			mkdir /a/b/c
			name /a/b/c/.. = /a/b
			name /a/b/.. = /a
			name /a/b/c/../../.. = /
			cd /a/b/c
			name ../../../../.. = /
			chroot /a/b
			name .. = /
			name /c/../.. = /`,
		"busy": `
			mkdir /m
			mount one /m
			rmdir /m = EBUSY
			mv /m /n = EBUSY
			mkdir /m/in
			mount two /m/in
			umount /m = EBUSY
			detach /m
			ls /m =
			rmdir /m`,
		"readonly": `
			mkdir /a
			touch /a/f
			mkdir /b
			bind /a /b ro
			ls /b = f
			touch /b/g = EROFS
			rm /b/f = EROFS
			chmod /b/f = EROFS
			access /b/f = EROFS
			touch /a/g
			ls /b = f g
			remount /b
			touch /b/h
			remount /b x ro
			touch /b/i = EROFS
			mkdir /b/f/x = ENOTDIR
			mkdir /b/f = EEXIST`,
		"superblock": `
			mkdir /a
			mount one /a
			touch /a/f
			mkdir /b
			bind /a /b
			remountfs /a x ro
			touch /b/g = EROFS
			access /b/f = EROFS
			remountfs /a
			touch /b/g`,
		"files": `
			touch /f
			touch /g
			mkdir /d
			bind /f /g
			name /g = /g
			bind /f /d = ENOTDIR
			bind /d /f = ENOTDIR
			rm /g = EBUSY
			umount /g
			rm /g`,
		"flags": `
			mkdir /m
			mount one /m noexec
			touch /m/prog
			exec /m/prog = EACCES
			remount /m
			exec /m/prog`,
		"links": `
			mkdir /a
			mkdir /b
			touch /a/f
			bind /a /b
			link /a/f /b/g = EXDEV
			mv /a/f /b/g = EXDEV
			link /a/f /a/g
			ls /b = f g`,
		"rbind": `
			mkdir /a
			mkdir /a/m
			mkdir /b
			mkdir /c
			mount one /a/m
			touch /a/m/f
			bind /a /b
			rbind /a /c
			ls /b/m =
			ls /c/m = f
			name /c/m/f = /c/m/f
			name /c/m/.. = /c`,
		"bindpart": `
			mkdir /a
			mkdir /a/b
			mkdir /m
			bind /a/b /m
			name /m/.. = /
			touch /m/f
			ls /a/b = f`,
		"escape": `
			mkdir /a
			mkdir /a/b
			mkdir /a/b/c
			mkdir /m
			bind /a /m
			chroot /m
			cd /b/c
			name .. = /b
			outside mv /a/b/c /c
			name .. = ENOENT
			name ../.. = ENOENT`,
		"move": `
			mkdir /a
			mkdir /b
			mount one /a
			touch /a/f
			mkdir /a/sub
			move /a /b
			ls /b = f sub
			ls /a =
			move /a /b = EINVAL
			move /b /b/sub = ELOOP`,
		"pivot": `
			mkdir /new
			pivot /new /new = EBUSY
			mount one /new
			mkdir /new/old
			touch /marker
			mkdir /side
			pivot /new /side = EBUSY
			pivot /new /new/old
			ls / = old
			ls /old = marker new side
			name /old/new = /old/new
			detach /old
			ls /old =`,
		"pivotdot": `
			mkdir /new
			mount one /new
			touch /new/f
			touch /marker
			cd /new
			pivot . .
			ls / = f
			detach .
			detach . = EBUSY
			ls / = f
			name .. = /`,
		"openat2": `
			mkdir /a
			mkdir /a/m
			mount one /a/m
			symlink /a /abs
			symlink ../a /a/rel
			xdev /a
			xdev /a/m = EXDEV
			xdev a/m/.. = EXDEV
			cd /a
			beneath . 
			beneath .. = EXDEV
			beneath m/../.. = EXDEV
			beneath /a = EXDEV
			beneath rel = EXDEV
			inroot .. = /a
			inroot /m = /a/m
			inroot /../../m = /a/m`,
		"removed": `
			mkdir /d
			cd /d
			rmdir /d
			touch f = ENOENT
			ls . = ENOENT
			name . = /d (deleted)
			name .. = /`,
		"renamed": `
			mkdir /a
			mkdir /a/b
			mkdir /x
			cd /a/b
			mv /a/b /x/c
			name . = /x/c
			mv /x /y
			name . = /y/c
			name .. = /y`,
		"unreachable": `
			mkdir /a
			mkdir /b
			cd /b
			name . = /b`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for line := range strings.Lines(script) {
				command, want, _ := strings.Cut(strings.TrimSpace(line), " =")
				if command == "" {
					continue
				}
				if got := w.do(command); got != strings.TrimSpace(want) {
					t.Errorf("%s: got %q, want %q", command, got, strings.TrimSpace(want))
				}
			}
		})
	}
}

func TestMountList(t *testing.T) {
	w := newWorld(t)
	for _, c := range []string{"mkdir /a", "mkdir /a/b", "mkdir /m", "mount one /a/b noexec", "mkdir /a/b/c", "bind /a/b/c /m ro"} {
		if got := w.do(c); got != "" {
			t.Fatalf("%s: %s", c, got)
		}
	}
	tell := func(root Path) (out []string) {
		for _, m := range w.ns.Mounts(root) {
			out = append(out, fmt.Sprintf("%s %s %s %s %#x", m.Point, m.Root, m.Type, m.Source, m.Flags))
		}
		return out
	}
	want := []string{"/ / tmpfs root 0x0", "/a/b / tmpfs one 0x8", "/m /c tmpfs one 0x9"}
	if got := tell(w.root); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	want = []string{"/b / tmpfs one 0x8"}
	if got := tell(w.path("/a")); !slices.Equal(got, want) {
		t.Errorf("below /a: got %q, want %q", got, want)
	}
}

func TestCloneOfNamespace(t *testing.T) {
	w := newWorld(t)
	w.do("mkdir /m")
	w.do("mount one /m")
	w.do("touch /m/f")
	was := w.path("/m/f")
	ns, translate := w.ns.Clone(nil)
	c := &world{t: t, arena: w.arena, ns: ns, root: ns.Root(), at: ns.Root()}
	if got := c.path("/m/f"); got != translate(was) || got == was || got.Inode() != was.Inode() {
		t.Errorf("the file in the copy is %v, was %v", got, was)
	}
	if got := c.do("umount /m"); got != "" {
		t.Errorf("umount in the copy: %s", got)
	}
	if got := w.do("ls /m"); got != "f" {
		t.Errorf("the original has %q", got)
	}
	if got := Name(w.root, c.root); !strings.HasPrefix(got, "(unreachable)") {
		t.Errorf("a place of another namespace is %q", got)
	}
	ns.Release()
}

// released is a file system that tells of its end.
type released struct {
	*tmpfs.FileSystem
	gone *bool
}

func (r released) Release() { *r.gone = true; r.FileSystem.Release() }

func TestRelease(t *testing.T) {
	w := newWorld(t)
	w.do("mkdir /m")
	var gone bool
	if err := w.ns.Mount(ctx, w.path("/m"), &released{w.tmpfs(), &gone}, MountOptions{}); err != nil {
		t.Fatal(err)
	}
	d, err := Open(ctx, w.start(), "/m/f", OpenHow{Flags: unix.O_CREAT | unix.O_RDWR})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.do("umount /m"); got != "EBUSY" {
		t.Errorf("umount with an open file: %q", got)
	}
	if got := w.do("detach /m"); got != "" || gone {
		t.Errorf("detach: %q, released %v", got, gone)
	}
	d.Unref()
	if !gone {
		t.Error("the file system was not released with its last file")
	}
}
