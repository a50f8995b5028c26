package socket

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

type caller struct {
	vfs.Context
	creds vfs.Creds
}

func (c *caller) Creds() *vfs.Creds   { return &c.creds }
func (*caller) PID() int32            { return 7 }
func (*caller) FS() *kernel.FSContext { return nil }

func newTable(t testing.TB, n int) *vfs.FDTable {
	fds := vfs.NewFDTable()
	for range n {
		d := vfs.NewAnonymous(vfs.NoFile{}, "x", 0)
		if _, err := fds.Install(d, 0, false, 100); err != nil {
			t.Fatal(err)
		}
		d.Unref()
	}
	return fds
}

func TestParseControl(t *testing.T) {
	fds := newTable(t, 3)
	join := func(bs ...[]byte) []byte { return bytes.Join(bs, nil) }
	me := unix.UnixCredentials(&unix.Ucred{Pid: 7, Uid: 5, Gid: 6})
	for _, row := range []struct {
		name   string
		in     []byte
		err    error
		rights int
		creds  bool
	}{
		{"nothing", nil, nil, 0, false},
		{"two descriptors", unix.UnixRights(0, 2), nil, 2, false},
		{"twice", join(unix.UnixRights(0), unix.UnixRights(1, 2)), nil, 3, false},
		{"a bad descriptor", unix.UnixRights(0, 9), unix.EBADF, 0, false},
		{"too many", unix.UnixRights(make([]int, 254)...), unix.EINVAL, 0, false},
		{"credentials", me, nil, 0, true},
		{"both", join(unix.UnixRights(1), me), nil, 1, true},
		{"another's", unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 5, Gid: 6}), unix.EPERM, 0, false},
		{"root's", unix.UnixCredentials(&unix.Ucred{Pid: 7, Uid: 0, Gid: 6}), unix.EPERM, 0, false},
		{"a length beyond the end", unix.UnixRights(0)[:18], unix.EINVAL, 0, false},
		{"a short header", me[:10], nil, 0, false},
	} {
		c := &caller{Context: vfs.SentryContext(), creds: vfs.Creds{UID: 5, EUID: 5, SUID: 5, GID: 6, EGID: 6, SGID: 6}}
		got, err := ParseControl(c, fds, row.in)
		if err != row.err || len(got.Rights) != row.rights || (got.Creds != nil) != row.creds {
			t.Errorf("%s: %d descriptors, credentials %v, %v; want %d, %v, %v", row.name, len(got.Rights), got.Creds, err,
				row.rights, row.creds, row.err)
		}
		got.Release()
	}
}

func TestEncode(t *testing.T) {
	fds := newTable(t, 3)
	c := &caller{Context: vfs.SentryContext()}
	m, err := ParseControl(c, fds, unix.UnixRights(0, 1, 2))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Release()
	for _, row := range []struct {
		size, files, length int
		cut                 bool
	}{{100, 3, 32, false}, {28, 3, 28, false}, {24, 2, 24, true}, {20, 1, 20, true}, {16, 0, 0, true}, {0, 0, 0, true}} {
		next := 10
		b, cut := m.Encode(row.size, func(*vfs.Description) (int, error) { next++; return next, nil })
		if next-10 != row.files || len(b) != row.length || cut != row.cut {
			t.Errorf("%d bytes: %d descriptors in %d, cut %v; want %d in %d, %v", row.size, next-10, len(b), cut, row.files,
				row.length, row.cut)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add(unix.UnixRights(0, 1))
	f.Add(unix.UnixCredentials(&unix.Ucred{Pid: 7}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseControl(&caller{Context: vfs.SentryContext()}, newTable(t, 2), b)
		if err != nil && len(got.Rights) > 0 {
			t.Error("descriptors beside an error")
		}
		got.Release()
	})
}

func TestOptions(t *testing.T) {
	c := &caller{Context: vfs.SentryContext()}
	for _, row := range []struct {
		name, set int
		err       error
		want      []byte
	}{
		{unix.SO_REUSEADDR, 5, nil, Int(1)},
		{unix.SO_SNDBUF, 1, nil, Int(4608)},
		{unix.SO_SNDBUF, 50000, nil, Int(100000)},
		{unix.SO_SNDBUF, 1 << 30, nil, Int(2 * BufferMax)},
		{unix.SO_RCVBUF, 1, nil, Int(2304)},
		{unix.SO_RCVLOWAT, 0, nil, Int(1)},
		{unix.SO_PASSCRED, 2, nil, Int(1)},
		{unix.SO_TYPE, 1, unix.ENOPROTOOPT, nil},
		{unix.SO_SNDBUFFORCE, 1, unix.EPERM, nil},
	} {
		o := NewOptions()
		if err := o.Set(c, row.name, Int(row.set)); err != row.err {
			t.Errorf("set %d to %d: %v, want %v", row.name, row.set, err, row.err)
			continue
		}
		if row.err != nil {
			continue
		}
		if got, err := o.Get(row.name); !bytes.Equal(got, row.want) || err != nil {
			t.Errorf("%d after %d: %v %v, want %v", row.name, row.set, got, err, row.want)
		}
	}
}
