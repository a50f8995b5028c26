package gofer

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	gofers "bulkhead/sentry/gofer"
	"bulkhead/sentry/vfs"
)

func TestIDs(t *testing.T) {
	mount := &vfs.IDMap{Ranges: []vfs.IDRange{{First: 0, Base: 1000, Count: 10}, {First: 10, Base: 5, Count: 5}}}
	user := &vfs.IDMap{Ranges: []vfs.IDRange{{First: 0, Base: 1000, Count: 5}, {First: 7, Base: 5, Count: 1}}}
	for _, x := range []struct {
		m        IDMaps
		disk, in uint32 // noID: nobody's
	}{
		{IDMaps{}, 7, 7},
		{IDMaps{User: user}, 1000, 0}, {IDMaps{User: user}, 1004, 4}, {IDMaps{User: user}, 5, 7}, {IDMaps{User: user}, 1005, noID}, {IDMaps{User: user}, 0, noID},
		{IDMaps{Mount: mount}, 0, 1000}, {IDMaps{Mount: mount}, 14, 9}, {IDMaps{Mount: mount}, 15, noID},
		{IDMaps{mount, user}, 0, 0}, {IDMaps{mount, user}, 4, 4}, {IDMaps{mount, user}, 5, noID}, {IDMaps{mount, user}, 10, 7}, {IDMaps{mount, user}, 11, noID}, {IDMaps{mount, user}, 99, noID},
	} {
		if got := x.m.shown(x.disk); got != x.in {
			t.Errorf("%d is shown as %d, want %d (%v)", x.disk, got, x.in, x.m)
		}
		if x.in == noID {
			continue
		}
		if got, err := x.m.kept(x.in); err != nil || got != x.disk {
			t.Errorf("%d is kept as %d, %v; want %d (%v)", x.in, got, err, x.disk, x.m)
		}
	}
	if _, err := (&IDMaps{mount, user}).kept(5); err != unix.EINVAL {
		t.Error("no such user:", err)
	}
	if _, err := (&IDMaps{Mount: mount}).kept(0); err != unix.EOVERFLOW {
		t.Error("no such id on the disk:", err)
	}
	f := &FS{ids: &IDs{UIDs: IDMaps{User: user}, GIDs: IDMaps{User: user}}}
	if _, _, err := f.keptIDs(0, 6); err != unix.EOVERFLOW {
		t.Error("a new file with no such group:", err)
	}
}

// TestFileCaps: capabilities that root inside gives a file are no more than its own user
// namespace's on the disk, and those of the host's root are nobody's inside.
func TestFileCaps(t *testing.T) {
	f := attach(t, fstest.NewArena(t), gofers.Mount{Source: tempDir(t), Exclusive: true})
	user := &vfs.IDMap{Ranges: []vfs.IDRange{{First: 0, Base: 1000, Count: 5}}}
	f.MapIDs(IDs{UIDs: IDMaps{User: user}, GIDs: IDMaps{User: user}})
	caps := func(owner int64) []byte {
		le := binary.LittleEndian
		revision := uint32(fileCapsRev2)
		if owner >= 0 {
			revision = fileCapsRev3
		}
		b := append(le.AppendUint32(nil, revision|1), make([]byte, 16)...)
		if b[4] = 2; owner >= 0 {
			b = le.AppendUint32(b, uint32(owner))
		}
		return b
	}
	for _, x := range []struct{ inside, disk []byte }{{caps(-1), caps(1000)}, {caps(3), caps(1003)}} {
		got, err := f.keptCaps(x.inside)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(x.disk) {
			t.Errorf("%x is kept as %x, %v; want %x", x.inside, got, err, x.disk)
		}
		if got := f.shownCaps(x.disk); fmt.Sprint(got) != fmt.Sprint(x.inside) {
			t.Errorf("%x is shown as %x, want %x", x.disk, got, x.inside)
		}
	}
	for _, disk := range [][]byte{caps(-1), caps(0), caps(77)} {
		if got := f.shownCaps(disk); fmt.Sprint(got) != fmt.Sprint(caps(int64(noID))) {
			t.Errorf("another's %x is shown as %x", disk, got)
		}
	}
	if _, err := f.keptCaps(caps(9)); err != unix.EINVAL {
		t.Error("of no such user:", err)
	}
	ctx := vfs.SentryContext()
	i, err := f.Root().(vfs.Directory).Make(ctx, "prog", vfs.New{Mode: unix.S_IFREG | 0o755})
	if err != nil {
		t.Fatal(err)
	}
	if err := i.(vfs.Xattrs).SetXattr(ctx, fileCaps, caps(-1), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := i.(vfs.Xattrs).GetXattr(ctx, fileCaps); err != nil || fmt.Sprint(got) != fmt.Sprint(caps(-1)) {
		t.Errorf("%x, %v", got, err)
	}
	if a, err := i.Attr(ctx); err != nil || a.UID != 0 {
		t.Errorf("owner %d, %v", a.UID, err)
	}
	if err := i.SetAttr(ctx, vfs.SetAttr{Mask: vfs.SetGID, GID: 5}); err != unix.EINVAL {
		t.Error("chown to nobody:", err)
	}
}
