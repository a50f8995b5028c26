package fs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKernelRandom does the same random system calls in a share, through Linux's
// client, and in a plain directory beside it. Results, errnos, attributes and
// bytes must agree.
func TestKernelRandom(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	rows, steps := []Options{{}, {Cache: -1}, {Descriptors: 128}}, 3000
	if os.Getenv(guestEnv) != "" { // the options are the host's, and a guest may be slow
		rows, steps = rows[:1], 1000
	}
	for _, o := range rows {
		t.Run(fmt.Sprintf("cache %v descriptors %d", o.Cache, o.Descriptors), func(t *testing.T) {
			host, guest := share(t, o)
			plain := t.TempDir()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			a, b := &actor{dir: guest}, &actor{dir: plain}
			r := rand.New(rand.NewPCG(seed, 2))
			for step := range steps {
				call := calls[r.IntN(len(calls))]
				choice := r.Uint64()
				got := call.do(a, rand.New(rand.NewPCG(choice, 3)))
				want := call.do(b, rand.New(rand.NewPCG(choice, 3)))
				if got != want {
					t.Fatalf("step %d: %s: %s; natively %s", step, call.name, got, want)
				}
			}
			a.close()
			b.close()
			want := tree2text(t, plain)
			for _, dir := range []string{guest, host} {
				if got := tree2text(t, dir); got != want {
					t.Errorf("%s:\n%s\nnatively:\n%s", dir, got, want)
				}
			}
		})
	}
}

// An actor makes system calls in a directory.
type actor struct {
	dir  string
	open []*os.File
	maps [][]byte
}

func (a *actor) close() {
	for _, f := range a.open {
		f.Close()
	}
	for _, m := range a.maps {
		_ = unix.Munmap(m)
	}
}

// name is one of a few, at most two directories deep.
func (a *actor) name(r *rand.Rand) string {
	parts := []string{a.dir}
	for range r.IntN(3) {
		parts = append(parts, fmt.Sprintf("d%d", r.IntN(3)))
	}
	return filepath.Join(append(parts, fmt.Sprintf("%c%d", "df"[r.IntN(2)], r.IntN(4)))...)
}

func (a *actor) file(r *rand.Rand) *os.File {
	if len(a.open) == 0 {
		return nil
	}
	return a.open[r.IntN(len(a.open))]
}

func (a *actor) result(err error) string {
	if err == nil {
		return "ok"
	}
	var errno unix.Errno
	switch e := err.(type) {
	case unix.Errno:
		errno = e
	case *os.PathError:
		errno, _ = e.Err.(unix.Errno)
	case *os.LinkError:
		errno, _ = e.Err.(unix.Errno)
	case *os.SyscallError:
		errno, _ = e.Err.(unix.Errno)
	}
	if errno == 0 {
		return err.Error()
	}
	return errno.Error()
}

// calls is what an actor can do. Each says all that can be seen of it.
var calls = []struct {
	name string
	do   func(*actor, *rand.Rand) string
}{
	{"mkdir", func(a *actor, r *rand.Rand) string { return a.result(unix.Mkdir(a.name(r), 0o755)) }},
	{"mkdir", func(a *actor, r *rand.Rand) string { return a.result(unix.Mkdir(a.name(r), 0o1700)) }},
	{"rmdir", func(a *actor, r *rand.Rand) string { return a.result(unix.Rmdir(a.name(r))) }},
	{"unlink", func(a *actor, r *rand.Rand) string { return a.result(unix.Unlink(a.name(r))) }},
	{"link", func(a *actor, r *rand.Rand) string { return a.result(unix.Link(a.name(r), a.name(r))) }},
	{"symlink", func(a *actor, r *rand.Rand) string {
		target := fmt.Sprintf("f%d", r.IntN(4)) // not "..": the two directories have one parent
		return a.result(unix.Symlink(target, a.name(r)))
	}},
	{"rename", func(a *actor, r *rand.Rand) string {
		flags := []uint{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[r.IntN(4)]
		return a.result(unix.Renameat2(unix.AT_FDCWD, a.name(r), unix.AT_FDCWD, a.name(r), flags))
	}},
	{"chmod", func(a *actor, r *rand.Rand) string {
		return a.result(unix.Chmod(a.name(r), uint32(r.IntN(0o10000))|0o700))
	}},
	{"chown", func(a *actor, r *rand.Rand) string { return a.result(unix.Lchown(a.name(r), r.IntN(5), r.IntN(5))) }},
	{"truncate", func(a *actor, r *rand.Rand) string {
		return a.result(unix.Truncate(a.name(r), int64(r.IntN(100<<10))))
	}},
	{"utimes", func(a *actor, r *rand.Rand) string {
		when := []unix.Timespec{{Sec: int64(r.IntN(1e9)), Nsec: int64(r.IntN(1e9))}, {Sec: int64(r.IntN(1e9)), Nsec: 7}}
		return a.result(unix.UtimesNanoAt(unix.AT_FDCWD, a.name(r), when, unix.AT_SYMLINK_NOFOLLOW))
	}},
	{"lstat", func(a *actor, r *rand.Rand) string {
		var s unix.Stat_t
		err := unix.Lstat(a.name(r), &s)
		return a.result(err) + stat2text(&s)
	}},
	{"readdir", func(a *actor, r *rand.Rand) string {
		entries, err := os.ReadDir(a.name(r))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name()+e.Type().String())
		}
		return fmt.Sprint(a.result(err), names)
	}},
	{"open", func(a *actor, r *rand.Rand) string {
		flags := []int{unix.O_RDWR, unix.O_RDWR | unix.O_CREAT, unix.O_RDWR | unix.O_CREAT | unix.O_EXCL,
			unix.O_RDWR | unix.O_TRUNC, unix.O_RDWR | unix.O_APPEND | unix.O_CREAT}[r.IntN(5)]
		f, err := os.OpenFile(a.name(r), flags, 0o640)
		if err == nil {
			a.open = append(a.open, f)
		}
		return a.result(err)
	}},
	{"close", func(a *actor, r *rand.Rand) string {
		if len(a.open) < 4 {
			return ""
		}
		i := r.IntN(len(a.open))
		err := a.open[i].Close()
		a.open = slices.Delete(a.open, i, i+1)
		return a.result(err)
	}},
	{"write", write}, {"write", write},
	{"read", func(a *actor, r *rand.Rand) string {
		f := a.file(r)
		if f == nil {
			return ""
		}
		b := make([]byte, r.IntN(64<<10))
		n, err := unix.Pread(int(f.Fd()), b, int64(r.IntN(100<<10)))
		return fmt.Sprintf("%s %d %x", a.result(err), n, sha256.Sum256(b[:max(n, 0)]))
	}},
	{"ftruncate", func(a *actor, r *rand.Rand) string {
		if f := a.file(r); f != nil {
			return a.result(unix.Ftruncate(int(f.Fd()), int64(r.IntN(100<<10))))
		}
		return ""
	}},
	{"fallocate", func(a *actor, r *rand.Rand) string {
		mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE}[r.IntN(4)]
		if f := a.file(r); f != nil {
			return a.result(unix.Fallocate(int(f.Fd()), mode, int64(r.IntN(50<<10)), int64(1+r.IntN(50<<10))))
		}
		return ""
	}},
	{"copy_file_range", func(a *actor, r *rand.Rand) string {
		from, to := a.file(r), a.file(r)
		if from == nil || from == to {
			return ""
		}
		x, y := int64(r.IntN(20<<10)), int64(r.IntN(20<<10))
		n, err := unix.CopyFileRange(int(from.Fd()), &x, int(to.Fd()), &y, r.IntN(20<<10), 0)
		return fmt.Sprint(a.result(err), n)
	}},
	{"fstat", func(a *actor, r *rand.Rand) string {
		f := a.file(r)
		if f == nil {
			return ""
		}
		var s unix.Stat_t
		err := unix.Fstat(int(f.Fd()), &s)
		return a.result(err) + stat2text(&s)
	}},
	{"mmap and write", func(a *actor, r *rand.Rand) string {
		f := a.file(r)
		if f == nil {
			return ""
		}
		var s unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &s); err != nil || s.Size == 0 {
			return a.result(err)
		}
		m, err := unix.Mmap(int(f.Fd()), 0, int(s.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return a.result(err)
		}
		sum := sha256.Sum256(m)
		at := r.IntN(len(m))
		copy(m[at:], "written to the map")
		err = unix.Msync(m, unix.MS_SYNC)
		_ = unix.Munmap(m)
		return fmt.Sprintf("%s %x", a.result(err), sum)
	}},
	{"setxattr", func(a *actor, r *rand.Rand) string {
		value := bytes.Repeat([]byte("v"), r.IntN(100))
		return a.result(unix.Lsetxattr(a.name(r), fmt.Sprintf("user.x%d", r.IntN(3)), value, r.IntN(3)))
	}},
	{"getxattr", func(a *actor, r *rand.Rand) string {
		b := make([]byte, r.IntN(150))
		n, err := unix.Lgetxattr(a.name(r), fmt.Sprintf("user.x%d", r.IntN(3)), b)
		return fmt.Sprint(a.result(err), n)
	}},
	{"removexattr", func(a *actor, r *rand.Rand) string {
		return a.result(unix.Lremovexattr(a.name(r), fmt.Sprintf("user.x%d", r.IntN(3))))
	}},
	{"mkfifo", func(a *actor, r *rand.Rand) string { return a.result(unix.Mkfifo(a.name(r), 0o600)) }},
}

func write(a *actor, r *rand.Rand) string {
	f := a.file(r)
	if f == nil {
		return ""
	}
	b := bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(64<<10))
	n, err := unix.Pwrite(int(f.Fd()), b, int64(r.IntN(50<<10)))
	return fmt.Sprint(a.result(err), n)
}

// stat2text is what two directories must agree on.
func stat2text(s *unix.Stat_t) string {
	size, when := s.Size, int64(0)
	if s.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	if s.Mtim.Sec < 1e9 { // set by utimes
		when = s.Mtim.Nano()
	}
	return fmt.Sprintf(" %o %d:%d links %d size %d mtime %d", s.Mode, s.Uid, s.Gid, s.Nlink, size, when)
}

func tree2text(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(name, &s); err != nil {
			return err
		}
		content := ""
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			content, _ = os.Readlink(name)
		case e.Type().IsRegular():
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%x", sha256.Sum256(b))
		}
		if name != dir {
			fmt.Fprintln(&text, strings.TrimPrefix(name, dir), stat2text(&s), content)
		}
		return nil
	}))
	return text.String()
}
