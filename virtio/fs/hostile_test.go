package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// outside is a directory with a share in it, and beside that what no guest may
// see or change.
type outside struct {
	dir, share string
	before     map[string]string
}

const secret = "not for the guest"

func newOutside(t testing.TB) outside {
	t.Helper()
	return newOutsideIn(t, t.TempDir())
}

func newOutsideIn(t testing.TB, dir string) outside {
	t.Helper()
	o := outside{dir: dir}
	o.share = o.dir + "/share"
	must(t, os.Mkdir(o.share, 0o755))
	must(t, os.Mkdir(o.dir+"/private", 0o755))
	must(t, os.WriteFile(o.dir+"/private/f", []byte(secret), 0o644))
	must(t, os.WriteFile(o.dir+"/secret", []byte(secret), 0o600))
	o.before = o.look(t)
	return o
}

// look is all that is outside the share, as names with modes, owners, link
// counts and content.
func (o outside) look(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(o.dir, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == o.share {
			return filepath.SkipDir
		}
		var s unix.Stat_t
		if err := unix.Lstat(name, &s); err != nil {
			return err
		}
		content, _ := os.ReadFile(name)
		found[name] = string(words(s.Mode, s.Uid, s.Gid, s.Ino, s.Ctim.Sec, s.Ctim.Nsec, s.Nlink)) + string(content)
		if name == o.dir { // of which only the entries matter: the test's temporary files come and go
			found[name] = ""
		}
		return nil
	})
	must(t, err)
	return found
}

func (o outside) check(t testing.TB) {
	t.Helper()
	after := o.look(t)
	for name, was := range o.before {
		if after[name] != was {
			t.Errorf("%s changed: %q, was %q", name, after[name], was)
		}
		delete(after, name)
	}
	for name := range after {
		t.Errorf("%s has appeared", name)
	}
}

func TestHostileNames(t *testing.T) {
	o := newOutside(t)
	c := direct(t, newDevice(t, Options{Dir: o.share}))
	f, _, err := c.create(root, "f", unix.O_RDWR)
	must(t, err)
	for _, name := range []string{"", ".", "..", "/", "/etc/passwd", "../secret", "a/b", "f/", "../private/f", strings.Repeat("x", 256)} {
		want := error(unix.EINVAL)
		if len(name) > nameMax {
			want = unix.ENAMETOOLONG
		}
		try := func(what string, err error) {
			t.Helper()
			if err != want {
				t.Errorf("%s %q: %v; want %v", what, name, err, want)
			}
		}
		_, err := c.lookup(root, name)
		try("lookup", err)
		_, _, err = c.create(root, name, unix.O_RDWR)
		try("create", err)
		_, err = c.mkdir(root, name)
		try("mkdir", err)
		_, err = c.symlink(root, name, "target")
		try("symlink", err)
		_, err = c.link(f, root, name)
		try("link", err)
		_, err = c.call(opMknod, root, entrySize, uint32(unix.S_IFREG|0o644), uint32(0), uint32(0), uint32(0), name)
		try("mknod", err)
		_, err = c.call(opRmdir, root, 0, name)
		try("rmdir", err)
		try("unlink", c.unlink(root, name))
		try("rename from", c.rename(root, name, root, "g", 0))
		try("rename to", c.rename(root, "f", root, name, 0))
	}
	o.check(t)
}

// TestHostileLinks uses symlinks that lead out as if they were directories and
// files.
func TestHostileLinks(t *testing.T) {
	o := newOutside(t)
	c := direct(t, newDevice(t, Options{Dir: o.share}))
	for name, target := range map[string]string{
		"dir": o.dir + "/private", "file": o.dir + "/secret", "up": "..", "fd": "/proc/self/fd", "cwd": "/proc/self/cwd",
	} {
		e, err := c.symlink(root, name, target)
		must(t, err)
		if e.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("%s is of mode %o", name, e.Mode)
		}
		refused := func(what string, err error) {
			t.Helper()
			if err == nil {
				t.Errorf("%s through %s works", what, name)
			}
		}
		_, err = c.lookup(e.NodeId, "f")
		refused("lookup", err)
		_, err = c.lookup(e.NodeId, "secret")
		refused("lookup", err)
		_, _, err = c.create(e.NodeId, "new", unix.O_RDWR)
		refused("create", err)
		_, err = c.mkdir(e.NodeId, "new")
		refused("mkdir", err)
		_, err = c.openDir(e.NodeId)
		refused("opendir", err)
		_, err = c.open(e.NodeId, unix.O_RDONLY)
		refused("open", err)
		refused("truncate", c.truncate(e.NodeId, 0))
		refused("rename", c.rename(e.NodeId, "f", root, "f", 0))
		refused("unlink", c.unlink(e.NodeId, "f"))
		_, _, err = c.create(root, name, unix.O_RDWR|unix.O_TRUNC) // without O_EXCL: the symlink is there
		refused("create over", err)
		_, err = c.call(opSetxattr, e.NodeId, 0, uint32(1), uint32(0), "user.x", "v")
		refused("setxattr", err)
		_, err = c.call(opTmpfile, e.NodeId, entrySize+16, uint32(unix.O_RDWR), uint32(0o600), uint32(0), uint32(0), "/")
		refused("tmpfile", err)
		_, err = c.call(opSetattr, e.NodeId, 104, uint32(1), uint32(0), make([]byte, 64), uint32(0o777), make([]byte, 12))
		refused("chmod", err)
	}
	o.check(t)
}

// TestMagicLinks: the links of proc, which lead where no name does (proc(5), /proc/PID/root), are
// links like others in a share that has them.
func TestMagicLinks(t *testing.T) {
	c := direct(t, newDevice(t, Options{Dir: "/proc/self"}))
	for _, name := range []string{"root", "cwd", "exe"} {
		e, err := c.lookup(root, name)
		must(t, err)
		if e.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("%s is of mode %o", name, e.Mode)
		}
		if _, err := c.lookup(e.NodeId, "etc"); err != unix.ENOTDIR {
			t.Errorf("lookup through %s: %v", name, err)
		}
		if _, err := c.openDir(e.NodeId); err == nil {
			t.Errorf("opendir of %s works", name)
		}
		if _, err := c.open(e.NodeId, unix.O_RDONLY); err == nil {
			t.Errorf("open of %s works", name)
		}
		if _, _, err := c.create(e.NodeId, "new", unix.O_RDWR); err == nil {
			t.Errorf("create through %s works", name)
		}
	}
}

// TestHostileRace swaps a directory and a symlink that leads out, while the
// guest walks through the name. Whatever it gets at, it is in the share.
func TestHostileRace(t *testing.T) {
	o := newOutside(t)
	d := newDevice(t, Options{Dir: o.share})
	walker, swapper := direct(t, d), &client{t: t}
	swapper.send = walker.send
	must(t, os.Mkdir(o.share+"/d", 0o755))
	must(t, os.WriteFile(o.share+"/d/f", []byte("for the guest"), 0o644))
	must(t, os.Symlink(o.dir+"/private", o.share+"/e"))

	done := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() { // by the guest and by the host
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := swapper.rename(root, "d", root, "e", unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("swap: %v", err)
			}
			if err := unix.Renameat2(unix.AT_FDCWD, o.share+"/d", unix.AT_FDCWD, o.share+"/e", unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("swap: %v", err)
			}
		}
	})
	reached := 0
	for range 3000 {
		dir, err := walker.lookup(root, "d")
		must(t, err)
		if _, _, err := walker.create(dir.NodeId, "made", unix.O_RDWR); err == nil {
			must(t, walker.unlink(dir.NodeId, "made"))
		}
		if f, err := walker.lookup(dir.NodeId, "f"); err == nil {
			if h, err := walker.open(f.NodeId, unix.O_RDWR); err == nil {
				got, err := walker.read(f.NodeId, h, 0, 100)
				if err != nil || bytes.Contains(got, []byte(secret)) {
					t.Fatalf("read %q, %v", got, err)
				}
				reached++
				must(t, walker.release(h))
			}
			walker.forget(f.NodeId, 1)
		}
		walker.forget(dir.NodeId, 1)
	}
	close(done)
	swapping.Wait()
	if reached == 0 || reached == 3000 {
		t.Logf("the guest reached the file %d times of 3000: nothing raced", reached)
	}
	o.check(t)
}

// TestHostileDevices puts what must not be opened where a guest can name it.
func TestHostileDevices(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make device nodes: run the tests as root")
	}
	o := newOutside(t)
	must(t, unix.Mkfifo(o.share+"/fifo", 0o666))
	if err := unix.Mknod(o.share+"/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Skipf("needs to make device nodes: %v: run the tests as root", err)
	}
	c := direct(t, newDevice(t, Options{Dir: o.share}))
	for _, name := range []string{"fifo", "zero"} {
		e, err := c.lookup(root, name)
		must(t, err)
		if _, err := c.open(e.NodeId, unix.O_RDWR); err != unix.ENXIO {
			t.Errorf("open %s: %v", name, err)
		}
		if _, _, err := c.create(root, name, unix.O_RDWR); err != unix.ENXIO {
			t.Errorf("create over %s: %v", name, err)
		}
		if err := c.truncate(e.NodeId, 0); err != unix.EINVAL {
			t.Errorf("truncate %s: %v", name, err)
		}
		if _, err := c.call(opGetxattr, e.NodeId, 64, uint32(64), uint32(0), "user.x"); err != unix.ENODATA {
			t.Errorf("getxattr %s: %v", name, err)
		}
	}
}

// TestHammer has many requests for the same few things under way at once.
func TestHammer(t *testing.T) {
	o := newOutside(t)
	before := openFiles(t)
	d := newDevice(t, Options{Dir: o.share, Descriptors: 128})
	c, _ := driven(t, d, ringFeatures)
	var hammering sync.WaitGroup
	start := make(chan struct{})
	for i := range 8 {
		hammering.Go(func() {
			<-start
			name := string(rune('a' + i%3))
			for range 150 {
				dir, err := c.mkdir(root, name)
				if err != nil {
					dir, err = c.lookup(root, name)
				}
				if err != nil {
					continue
				}
				node, h, err := c.create(dir.NodeId, "f", unix.O_RDWR)
				if err == nil {
					_, _ = c.write(node, h, 0, []byte(name))
					_ = c.rename(dir.NodeId, "f", root, name+"f", 0)
					_, _ = c.getattr(node)
					_ = c.release(h)
					_ = c.release(h) // twice
					c.forget(node, 1)
				}
				_, _, _ = c.list(root, opReaddirplus, 512)
				_ = c.unlink(root, name+"f")
				_, _ = c.call(opRmdir, root, 0, name)
				c.forget(dir.NodeId, 3) // more than was looked up
			}
		})
	}
	close(start)
	hammering.Wait()
	if _, err := c.call(opDestroy, 0, 0); err != nil {
		t.Error(err)
	}
	if n := openFiles(t) - before; n > 2 {
		t.Errorf("%d descriptors are left open", n)
	}
	o.check(t)
}
