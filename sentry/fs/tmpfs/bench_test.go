package tmpfs

import (
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// deep makes /usr/lib/python3/site/module.py, and /lib as a symlink to usr/lib.
func deep(b *testing.B) vfs.Start {
	s := start(New(fstest.NewArena(b), Options{Mode: 0o755}))
	for _, d := range []string{"/usr", "/usr/lib", "/usr/lib/python3", "/usr/lib/python3/site"} {
		if err := vfs.Mkdir(ctx, s, d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if err := vfs.MakeSymlink(ctx, "usr/lib", s, "/lib"); err != nil {
		b.Fatal(err)
	}
	d, err := vfs.Open(ctx, s, "/usr/lib/python3/site/module.py", vfs.OpenHow{Flags: unix.O_CREAT | unix.O_RDWR, Mode: 0o644})
	if err != nil {
		b.Fatal(err)
	}
	d.Write(ctx, memory.Buffers{pattern})
	d.Unref()
	return s
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
	s, u := deep(b), nobody{ctx}
	for name, n := range map[string]string{"deep": "/usr/lib/python3/site/module.py", "link": "/lib/python3/site/module.py", "short": "/usr"} {
		b.Run(name, func(b *testing.B) { stat(b, u, s, n, nil) })
	}
	b.Run("absent", func(b *testing.B) { stat(b, u, s, "/usr/lib/python3/site/other.py", unix.ENOENT) })
	b.Run("root", func(b *testing.B) { stat(b, ctx, s, "/usr/lib/python3/site/module.py", nil) })
}

func BenchmarkOpenClose(b *testing.B) {
	b.ReportAllocs()
	s, u := deep(b), nobody{ctx}
	for b.Loop() {
		d, err := vfs.Open(u, s, "/usr/lib/python3/site/module.py", vfs.OpenHow{})
		if err != nil {
			b.Fatal(err)
		}
		d.Unref()
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	b.ReportAllocs()
	s := deep(b)
	for b.Loop() {
		d, err := vfs.Open(ctx, s, "/usr/lib/new", vfs.OpenHow{Flags: unix.O_CREAT | unix.O_RDWR})
		if err != nil {
			b.Fatal(err)
		}
		d.Unref()
		if err := vfs.Unlink(ctx, s, "/usr/lib/new"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPread4K(b *testing.B) {
	b.ReportAllocs()
	s, u := deep(b), nobody{ctx}
	d, err := vfs.Open(u, s, "/usr/lib/python3/site/module.py", vfs.OpenHow{})
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
