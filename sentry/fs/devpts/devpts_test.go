package devpts

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

func TestOptions(t *testing.T) {
	for _, row := range []struct{ in, out string }{
		{"", "mode=600,ptmxmode=000"},
		{"newinstance,ptmxmode=0666,mode=0620,gid=5", "gid=5,mode=620,ptmxmode=666"},
		{"uid=1000,mode=640", "uid=1000,mode=640,ptmxmode=000"},
	} {
		o, err := ParseOptions(row.in)
		if err != nil || o.String() != row.out {
			t.Errorf("%q: got %q %v, want %q", row.in, o, err, row.out)
		}
	}
	for _, bad := range []string{"mode=9", "gid=x", "what=1", "gid"} {
		if _, err := ParseOptions(bad); err != unix.EINVAL {
			t.Errorf("%q: got %v, want EINVAL", bad, err)
		}
	}
}

func TestNamesComeAndGo(t *testing.T) {
	ctx := vfs.SentryContext()
	fs := New(Options{Mode: 0o620, Max: 2}, ctx.Now())
	var masters []vfs.File
	for range 2 {
		m, err := fs.OpenMaster(ctx, unix.O_RDWR, vfs.Path{})
		if err != nil {
			t.Fatal(err)
		}
		masters = append(masters, m)
	}
	if _, err := fs.OpenMaster(ctx, unix.O_RDWR, vfs.Path{}); err != unix.ENOSPC {
		t.Errorf("third of two: %v, want ENOSPC", err)
	}
	if got := names(t, fs); got != ". .. ptmx 0 1 " {
		t.Errorf("names %q", got)
	}
	i, err := fs.root.Lookup(ctx, "0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Open(ctx, vfs.Path{}, unix.O_RDWR); err != unix.EIO {
		t.Errorf("open of a locked slave: %v, want EIO", err)
	}
	masters[0].Release()
	if got := names(t, fs); got != ". .. ptmx 1 " {
		t.Errorf("names %q after 0 was closed", got)
	}
	if _, err := fs.root.Lookup(ctx, "01"); err != unix.ENOENT {
		t.Errorf("lookup of 01: %v, want ENOENT", err)
	}
}

func names(t *testing.T, fs *FileSystem) (s string) {
	f, _ := fs.root.Open(vfs.SentryContext(), vfs.Path{}, 0)
	err := f.(vfs.DirReader).ReadDir(vfs.SentryContext(), 0, func(d vfs.Dirent) bool { s += d.Name + " "; return true })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReadersLosePatience(t *testing.T) {
	o := openOurs(t)
	defer o.close()
	o.s.SetFlags(unix.O_RDWR)
	tio := o.termios()
	tio.Lflag &^= unix.ICANON | unix.ECHO
	tio.Cc[unix.VMIN], tio.Cc[unix.VTIME] = 5, 3
	o.setTermios(tio)
	buf := make([]byte, 10)
	read := func() (int, error) { return o.s.Read(vfs.SentryContext(), buffers{buf}, 0) }
	if n, err := read(); err != unix.EAGAIN {
		t.Fatal(n, err)
	}
	if d := o.s.ReadTimeout(); d != 0 {
		t.Errorf("the timer runs before the first byte: %v", d)
	}
	o.write(true, []byte("ab"))
	if n, err := read(); err != unix.EAGAIN {
		t.Errorf("2 of 5 bytes: %d %v", n, err)
	}
	if d := o.s.ReadTimeout(); d != 300*time.Millisecond {
		t.Errorf("between bytes: %v, want 300ms", d)
	}
	if n, err := o.s.ReadLate(vfs.SentryContext(), buffers{buf}); n != 2 || err != nil {
		t.Errorf("late: %d %v, want 2", n, err)
	}
	tio.Cc[unix.VMIN] = 0
	o.setTermios(tio)
	if _, err := read(); err != unix.EAGAIN {
		t.Errorf("VMIN 0, VTIME 3: %v, want EAGAIN", err)
	}
	if n, err := o.s.ReadLate(vfs.SentryContext(), buffers{buf}); n != 0 || err != nil {
		t.Errorf("late: %d %v, want 0", n, err)
	}
}

func TestTermiosRoundTrip(t *testing.T) {
	tio := defaults
	tio.Ispeed, tio.Ospeed = 1, 2
	var got unix.Termios
	decode(&got, encode(&tio))
	if got != tio {
		t.Errorf("got %+v, want %+v", got, tio)
	}
	if n := len(encode(&tio)); n != 44 {
		t.Errorf("struct termios2 has %d bytes, want 44", n)
	}
}
