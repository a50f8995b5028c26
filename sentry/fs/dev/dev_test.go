package dev

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

var ctx = vfs.SentryContext()

// mapper is a task as far as its memory goes.
type mapper struct {
	vfs.Context
	space *memory.Space
}

func (m mapper) Memory() *memory.Space { return m.space }

func TestDevices(t *testing.T) {
	arena := fstest.NewArena(t)
	ns := vfs.NewNamespace(tmpfs.New(arena, tmpfs.Options{Mode: 0o755}), vfs.MountOptions{})
	s := vfs.Start{Root: ns.Root(), At: ns.Root()}
	Handle(nil)
	space := fstest.NewSpace(t, arena)
	for range 2 { // the second time everything is there
		if err := Populate(ctx, ns.Root()); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		name          string
		read          int
		zero          bool
		write         error
		seek, mapping error
	}{
		{"null", 0, true, nil, nil, unix.ENODEV},
		{"zero", 5000, true, nil, nil, nil},
		{"full", 5000, true, unix.ENOSPC, nil, unix.ENODEV},
		{"random", 5000, false, nil, nil, unix.ENODEV},
		{"urandom", 5000, false, nil, nil, unix.ENODEV},
	} {
		d, err := vfs.Open(ctx, s, row.name, vfs.OpenHow{Flags: unix.O_RDWR})
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		b := bytes.Repeat([]byte{1}, 5000)
		n, err := d.Read(ctx, memory.Buffers{b})
		if n != row.read || err != nil || bytes.Equal(b[:n], make([]byte, n)) != row.zero {
			t.Errorf("%s: read %d %v %x", row.name, n, err, b[:min(n, 8)])
		}
		if _, err := d.Write(ctx, memory.Buffers{b}); err != row.write {
			t.Errorf("%s: write: %v", row.name, err)
		}
		if at, err := d.Seek(ctx, 100, unix.SEEK_SET); at != 0 || err != row.seek {
			t.Errorf("%s: seek: %d %v", row.name, at, err)
		}
		if _, err := d.Mappable(mapper{ctx, space}, memory.MapRequest{Length: 4096}); err != row.mapping {
			t.Errorf("%s: map: %v", row.name, err)
		}
		d.Unref()
	}
	if _, err := vfs.Open(ctx, s, "tty", vfs.OpenHow{Flags: unix.O_RDWR}); err != unix.ENXIO {
		t.Errorf("tty: %v", err)
	}
	p, err := vfs.Resolve(ctx, s, "stdin", vfs.ResolveNoFollow)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := vfs.Readlink(ctx, p); l != "/proc/self/fd/0" || err != nil {
		t.Errorf("stdin is %q %v", l, err)
	}
}
