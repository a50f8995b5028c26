package tmpfs

import (
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// deep makes /usr/lib/python3/site/module.py, and /lib as a symlink to usr/lib.
func deep(b *testing.B) (*sentry, *user) {
	s := newSentry(b)
	root := s.users[0]
	for _, d := range []string{"/usr", "/usr/lib", "/usr/lib/python3", "/usr/lib/python3/site"} {
		if err := vfs.Mkdir(root, s.start(), d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if err := vfs.MakeSymlink(root, "usr/lib", s.start(), "/lib"); err != nil {
		b.Fatal(err)
	}
	d, err := vfs.Open(root, s.start(), "/usr/lib/python3/site/module.py", vfs.OpenHow{Flags: unix.O_CREAT | unix.O_RDWR, Mode: 0o644})
	if err != nil {
		b.Fatal(err)
	}
	d.Write(root, memory.Buffers{pattern})
	d.Unref()
	return s, s.users[3]
}

func stat(b *testing.B, ctx vfs.Context, s vfs.Start, name string, want error) {
	for b.Loop() {
		p, err := vfs.Resolve(ctx, s, name, 0)
		if err == nil {
			_, err = vfs.Stat(ctx, p)
		}
		if err != want {
			b.Fatal(err)
		}
	}
}

func BenchmarkStat(b *testing.B) {
	b.ReportAllocs()
	s, u := deep(b)
	for name, n := range map[string]string{"deep": "/usr/lib/python3/site/module.py", "link": "/lib/python3/site/module.py", "short": "/usr"} {
		b.Run(name, func(b *testing.B) { stat(b, u, s.start(), n, nil) })
	}
	b.Run("absent", func(b *testing.B) { stat(b, u, s.start(), "/usr/lib/python3/site/other.py", unix.ENOENT) })
	b.Run("root", func(b *testing.B) { stat(b, s.users[0], s.start(), "/usr/lib/python3/site/module.py", nil) })
}

func BenchmarkOpenClose(b *testing.B) {
	b.ReportAllocs()
	s, u := deep(b)
	for b.Loop() {
		d, err := vfs.Open(u, s.start(), "/usr/lib/python3/site/module.py", vfs.OpenHow{})
		if err != nil {
			b.Fatal(err)
		}
		d.Unref()
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	b.ReportAllocs()
	s, _ := deep(b)
	for b.Loop() {
		d, err := vfs.Open(s.users[0], s.start(), "/usr/lib/new", vfs.OpenHow{Flags: unix.O_CREAT | unix.O_RDWR})
		if err != nil {
			b.Fatal(err)
		}
		d.Unref()
		if err := vfs.Unlink(s.users[0], s.start(), "/usr/lib/new"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPread4K(b *testing.B) {
	b.ReportAllocs()
	s, u := deep(b)
	d, err := vfs.Open(u, s.start(), "/usr/lib/python3/site/module.py", vfs.OpenHow{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Unref()
	buf := memory.Buffers{make([]byte, 4096)}
	for b.Loop() {
		if n, err := d.Pread(u, buf, 4096); n != 4096 || err != nil {
			b.Fatal(n, err)
		}
	}
}
