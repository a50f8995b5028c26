package inotify

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

var ctx = vfs.SentryContext()

// parse reads struct inotify_event; cookies are told as equal to the last or not.
func parse(b []byte) (out []string) {
	o := binary.NativeEndian
	var last uint32
	for len(b) > 0 {
		n := o.Uint32(b[12:])
		cookie := o.Uint32(b[8:])
		pair := ""
		if cookie != 0 && cookie == last {
			pair = " pair"
		}
		last = cookie
		name := strings.TrimRight(string(b[16:16+n]), "\x00")
		out = append(out, fmt.Sprintf("wd %d mask %#x len %d %q%s", int32(o.Uint32(b)), o.Uint32(b[4:]), n, name, pair))
		b = b[16+n:]
	}
	return out
}

// TestLikeLinux does the same to a host directory and to a tmpfs of ours, and
// compares all events.
func TestLikeLinux(t *testing.T) {
	type call struct {
		host func(dir string) error
		ours func(s vfs.Start) error
	}
	open := func(name string, flags int) call {
		return call{
			func(dir string) error {
				fd, err := unix.Open(dir+"/"+name, flags|unix.O_CLOEXEC, 0o644)
				if err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY {
					unix.Write(fd, []byte("hello"))
				} else if err == nil {
					unix.Read(fd, make([]byte, 3))
				}
				unix.Close(fd)
				return err
			},
			func(s vfs.Start) error {
				d, err := vfs.Open(ctx, s, name, vfs.OpenHow{Flags: flags, Mode: 0o644})
				if err != nil {
					return err
				}
				if d.Writable() {
					d.Write(ctx, memory.Buffers{[]byte("hello")})
				} else {
					d.Read(ctx, memory.Buffers{make([]byte, 3)})
				}
				d.Unref()
				return nil
			},
		}
	}
	rename := func(a, b string, flags uint) call {
		return call{
			func(dir string) error {
				return unix.Renameat2(unix.AT_FDCWD, dir+"/"+a, unix.AT_FDCWD, dir+"/"+b, flags)
			},
			func(s vfs.Start) error { return vfs.Rename(ctx, s, a, s, b, flags) },
		}
	}
	on := func(name string, host func(string) error, ours func(vfs.Path) error) call {
		return call{
			func(dir string) error { return host(dir + "/" + name) },
			func(s vfs.Start) error {
				p, err := vfs.Resolve(ctx, s, name, 0)
				if err != nil {
					return err
				}
				return ours(p)
			},
		}
	}
	calls := []call{
		{func(dir string) error { return unix.Mkdir(dir+"/d", 0o755) }, func(s vfs.Start) error { return vfs.Mkdir(ctx, s, "d", 0o755) }},
		open("f", unix.O_CREAT|unix.O_WRONLY),
		open("f", unix.O_RDONLY),
		open("f", unix.O_WRONLY|unix.O_TRUNC),
		on("f", func(n string) error { return unix.Chmod(n, 0o600) }, func(p vfs.Path) error { return vfs.Chmod(ctx, p, 0o600) }),
		on("f", func(n string) error { return unix.Truncate(n, 100) }, func(p vfs.Path) error { return vfs.Truncate(ctx, p, 100) }),
		on("f", func(n string) error { return unix.Link(n, n+"2") }, nil),
		rename("f", "g", 0),
		rename("g", "d/h", 0),
		rename("f2", "k", 0),
		open("l", unix.O_CREAT|unix.O_WRONLY),
		rename("k", "l", 0),
		rename("l", "d", unix.RENAME_EXCHANGE),
		rename("l", "d", unix.RENAME_EXCHANGE),
		{func(dir string) error { return unix.Unlink(dir + "/d/h") }, func(s vfs.Start) error { return vfs.Unlink(ctx, s, "d/h") }},
		{func(dir string) error { return unix.Unlink(dir + "/l") }, func(s vfs.Start) error { return vfs.Unlink(ctx, s, "l") }},
		{func(dir string) error { return unix.Rmdir(dir + "/d") }, func(s vfs.Start) error { return vfs.Rmdir(ctx, s, "d") }},
	}
	// The link needs the start for its new name.
	calls[6].ours = func(s vfs.Start) error {
		p, err := vfs.Resolve(ctx, s, "f", 0)
		if err != nil {
			return err
		}
		return vfs.Link(ctx, p, s, "f2")
	}

	dir := t.TempDir()
	arena := fstest.NewArena(t)
	ns := vfs.NewNamespace(tmpfs.New(arena, tmpfs.Options{Mode: 0o755}), vfs.MountOptions{})
	s := vfs.Start{Root: ns.Root(), At: ns.Root()}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Skipf("no inotify here: %v", err)
	}
	defer unix.Close(fd)
	d := New(unix.IN_NONBLOCK)
	in := d.File().(*Instance)
	watch := func(name string) {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return
		}
		if _, err := unix.InotifyAddWatch(fd, dir+"/"+name, unix.IN_ALL_EVENTS); err != nil {
			t.Fatal(err)
		}
		p, err := vfs.Resolve(ctx, s, name, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Add(ctx, p, unix.IN_ALL_EVENTS); err != nil {
			t.Fatal(err)
		}
	}
	watch(".")
	for i, c := range calls {
		want, got := c.host(dir), c.ours(s)
		if want != got && (want == nil) != (got == nil) {
			t.Fatalf("call %d: Linux %v, Sentry %v", i, want, got)
		}
		x, y := make([]byte, 8192), make([]byte, 8192)
		xn, _ := unix.Read(fd, x)
		yn, _ := d.Read(ctx, memory.Buffers{y})
		if a, b := parse(x[:max(xn, 0)]), parse(y[:yn]); !slices.Equal(a, b) {
			t.Errorf("call %d:\nLinux\n\t%s\nSentry\n\t%s", i, strings.Join(a, "\n\t"), strings.Join(b, "\n\t"))
		}
		watch("d")
		watch("f")
		watch("l")
	}
	d.Unref()
}

func TestRemove(t *testing.T) {
	arena := fstest.NewArena(t)
	ns := vfs.NewNamespace(tmpfs.New(arena, tmpfs.Options{Mode: 0o755}), vfs.MountOptions{})
	d := New(0)
	in := d.File().(*Instance)
	if _, err := in.Add(ctx, ns.Root(), 0); err != unix.EINVAL {
		t.Errorf("a watch of nothing: %v", err)
	}
	wd, err := in.Add(ctx, ns.Root(), unix.IN_CREATE|unix.IN_ONESHOT)
	if err != nil || wd != 1 {
		t.Fatalf("add: %d %v", wd, err)
	}
	s := vfs.Start{Root: ns.Root(), At: ns.Root()}
	vfs.Mkdir(ctx, s, "a", 0o755)
	vfs.Mkdir(ctx, s, "b", 0o755)
	b := make([]byte, 1000)
	if _, err := d.Read(ctx, memory.Buffers{b[:20]}); err != unix.EINVAL {
		t.Errorf("a read into too little: %v", err)
	}
	n, _ := d.Read(ctx, memory.Buffers{b})
	want := []string{`wd 1 mask 0x40000100 len 16 "a"`, `wd 1 mask 0x8000 len 0 ""`}
	if got := parse(b[:n]); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := in.Remove(wd); err != unix.EINVAL {
		t.Errorf("remove of what is gone: %v", err)
	}
	d.Unref()
}
