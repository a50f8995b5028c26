package wire

import (
	"errors"
	"os"
	"reflect"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fullRequest has something in every field.
func fullRequest(op Op) Request {
	return Request{
		Tag: 7, Op: op, Released: []uint32{3, 9}, ID: 1, Name: "name", To: 2, ToName: "to", Flags: 5, Mode: 0o644, UID: 1000, GID: 100,
		Rdev: 0x103, Set: Set{Mask: 63, Mode: 0o600, UID: 1, GID: 2, Size: 4096, Atime: Time{1, 2}, Mtime: Time{-3, 4}}, Offset: 99,
		Names: []string{"usr", "lib"}, Xattr: "user.x", Target: "../t", Data: []byte("data"),
	}
}

func fullReply() Reply {
	a := Attr{Ino: 1, Dev: 2, Rdev: 3, Size: 4, Blocks: 5, Mode: 6, Nlink: 7, UID: 8, GID: 9, BlockSize: 10,
		Atime: Time{11, 12}, Mtime: Time{-13, 14}, Ctime: Time{15, 16}, Btime: Time{17, 18}}
	return Reply{
		Tag: 7, ID: 5, Attr: a, Dir: a, ToDir: a, Short: []Short{{"s", 1, 2, 3}}, Nodes: []Node{{1, a, ""}, {NoID, a, "target"}}, Stop: unix.ENOENT,
		Entries: []Entry{{"x", 77, a}}, End: true, Roots: []Root{{ReadOnly, a}}, Target: "t", Data: []byte("d"),
		Statfs: unix.Statfs_t{Type: 1, Bsize: 2, Blocks: 3, Bfree: 4, Bavail: 5, Files: 6, Ffree: 7, Namelen: 8, Frsize: 9, Flags: 10}, FD: -1,
	}
}

// TestRoundTrip encodes what was decoded once more: bytes and fields must agree.
func TestRoundTrip(t *testing.T) {
	for op := Hello; op < opEnd; op++ {
		full := fullRequest(op)
		b := full.Append(nil)
		q, err := ParseRequest(b)
		if err != nil {
			t.Errorf("%v: %v", op, err)
			continue
		}
		if again := q.Append(nil); !reflect.DeepEqual(again, b) {
			t.Errorf("%v: got %x, want %x", op, again, b)
		}
		reply := fullReply()
		b = reply.Append(nil, op)
		r, err := ParseReply(b, op)
		if err != nil {
			t.Errorf("reply to %v: %v", op, err)
			continue
		}
		if again := r.Append(nil, op); !reflect.DeepEqual(again, b) {
			t.Errorf("reply to %v: got %x, want %x", op, again, b)
		}
	}
}

func TestRefusedNames(t *testing.T) {
	for _, name := range []string{".", "..", "a/b", "/", "a\x00b", string(make([]byte, 256))} {
		q := Request{Op: Open, Name: name}
		if got, err := ParseRequest(q.Append(nil)); err == nil {
			t.Errorf("%q: got %+v", name, got)
		}
		r := Reply{Entries: []Entry{{Name: name}}}
		if got, err := ParseReply(r.Append(nil, ReadDir), ReadDir); err == nil {
			t.Errorf("entry %q: got %+v", name, got)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for op := Hello; op < opEnd; op++ {
		q := fullRequest(op)
		f.Add(q.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := ParseRequest(b)
		if err == nil && !reflect.DeepEqual(q.Append(nil), b) {
			t.Errorf("%+v encodes to %x, came from %x", q, q.Append(nil), b)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	for op := Hello; op < opEnd; op++ {
		r := fullReply()
		f.Add(byte(op), r.Append(nil, op))
	}
	f.Fuzz(func(t *testing.T, op byte, b []byte) {
		if Op(op) > 0 && Op(op) < opEnd {
			ParseReply(b, Op(op))
		}
	})
}

func pair(t testing.TB) (*Conn, int) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewConn(p[0])
	if err != nil {
		t.Fatal(err)
	}
	return c, p[1]
}

// FuzzConn is a garbage gofer against the client: a Call must end.
func FuzzConn(f *testing.F) {
	r := fullReply()
	r.Tag = 1
	for _, op := range []Op{Walk, Open, ReadDir, Unlink} {
		f.Add(byte(op), true, r.Append(nil, op))
	}
	f.Add(byte(Walk), false, []byte{1, 0, 0, 0, 0xff, 0xff})
	f.Add(byte(Walk), false, []byte{})
	f.Fuzz(func(t *testing.T, op byte, withFD bool, b []byte) {
		if Op(op) == 0 || Op(op) >= Release || len(b) > MaxReply {
			return
		}
		c, gofer := pair(t)
		defer c.Close()
		pass := -1
		if withFD {
			pass = 0
		}
		Send(gofer, b, pass)
		unix.Shutdown(gofer, unix.SHUT_WR)
		defer unix.Close(gofer)
		r, err := c.Call(&Request{Op: Op(op), Name: "a", ToName: "b"})
		if err == nil && r.FD >= 0 {
			unix.Close(r.FD)
		}
		var e unix.Errno
		if err != nil && errors.As(err, &e) && (e == 0 || e > 4095) {
			t.Errorf("errno %d", e)
		}
	})
}

// TestManyCallers has the replies come in the opposite order.
func TestManyCallers(t *testing.T) {
	c, gofer := pair(t)
	const callers = 32
	go func() {
		b := make([]byte, MaxRequest)
		var got []Request
		for range callers {
			n, err := unix.Read(gofer, b)
			if err != nil {
				t.Error(err)
				return
			}
			q, err := ParseRequest(b[:n])
			if err != nil {
				t.Error(err)
			}
			got = append(got, q)
		}
		for i := range got {
			q := got[len(got)-1-i]
			r := Reply{Tag: q.Tag, Attr: Attr{Ino: uint64(q.ID)}}
			Send(gofer, r.Append(nil, q.Op), -1)
		}
	}()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			r, err := c.Call(&Request{Op: GetAttr, ID: uint32(i)})
			if err != nil || r.Attr.Ino != uint64(i) {
				t.Errorf("caller %d: got %d, %v", i, r.Attr.Ino, err)
			}
		})
	}
	wg.Wait()
	unix.Close(gofer)
	if _, err := c.Call(&Request{Op: GetAttr}); err == nil {
		t.Error("call to a gofer that has gone: no error")
	}
	c.Close()
}

func TestSocketKind(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := NewConn(int(r.Fd())); err == nil {
		t.Error("a pipe: no error")
	}
}
