package fs

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"bulkhead/virtio/virtiotest"
)

// client is a FUSE client of a test's own, which sends what it likes.
type client struct {
	t      testing.TB
	unique atomic.Uint64
	send   func(queue int, out [][]byte, in []int) []byte // out to the device, sizes of in from it
}

// newDevice is a device whose log fails the test for errors: a panic is one.
func newDevice(t testing.TB, o Options) *Device {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Tag = "test"
	o.Log = slog.New(failing{slog.DiscardHandler, t})
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

type failing struct {
	slog.Handler
	t testing.TB
}

func (f failing) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (f failing) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool { f.t.Logf("%s: %v", a.Key, a.Value); return true })
	f.t.Errorf("logged: %s", r.Message)
	return nil
}

// direct is a client without a queue in between. INIT has been sent.
func direct(t testing.TB, d *Device) *client {
	c := &client{t: t}
	c.send = func(_ int, out [][]byte, in []int) []byte {
		var room [][]byte
		for _, n := range in {
			room = append(room, make([]byte, n))
		}
		n, err := d.session.handle(out, room)
		if err != nil {
			t.Errorf("handle: %v", err)
		}
		return bytes.Join(room, nil)[:n]
	}
	c.begin()
	return c
}

// driven is a client behind queues in guest memory.
func driven(t testing.TB, d *Device, features uint64) (*client, *virtiotest.Driver) {
	driver := virtiotest.Start(t, d, features)
	c := &client{t: t}
	c.send = func(queue int, out [][]byte, in []int) []byte { return driver.Send(queue, out, in).Wait() }
	c.begin()
	return c, driver
}

// words encodes numbers by their size, and strings with their NUL.
func words(args ...any) []byte {
	var b []byte
	for _, a := range args {
		switch a := a.(type) {
		case string:
			b = append(append(b, a...), 0)
		case []byte:
			b = append(b, a...)
		default:
			var err error
			if b, err = binary.Append(b, binary.LittleEndian, a); err != nil {
				panic(err)
			}
		}
	}
	return b
}

func (c *client) header(op opcode, node uint64, n int) []byte {
	return words(uint32(headerSize+n), uint32(op), c.unique.Add(1), node, uint32(0), uint32(0), uint32(1), uint32(0))
}

// call sends one request and returns the data of the reply, for which it leaves
// room bytes.
func (c *client) call(op opcode, node uint64, room int, args ...any) ([]byte, error) {
	c.t.Helper()
	return c.callAs(op, node, 0, 0, room, args...)
}

func (c *client) callAs(op opcode, node uint64, uid, gid uint32, room int, args ...any) ([]byte, error) {
	c.t.Helper()
	body := words(args...)
	head := c.header(op, node, len(body))
	binary.LittleEndian.PutUint32(head[24:], uid)
	binary.LittleEndian.PutUint32(head[28:], gid)
	queue, in := 1, []int{replySize, room}
	if op.silent() {
		queue, in = hiprio, nil
	}
	out := [][]byte{head, body}
	if len(body) == 0 {
		out = out[:1]
	}
	if room == 0 && in != nil {
		in = in[:1]
	}
	reply := c.send(queue, out, in)
	if op.silent() {
		return nil, nil
	}
	return c.check(head, reply)
}

func (c *client) check(head, reply []byte) ([]byte, error) {
	c.t.Helper()
	if len(reply) < replySize {
		c.t.Fatalf("%v: a reply of %d bytes", opcode(binary.LittleEndian.Uint32(head[4:])), len(reply))
	}
	if said := binary.LittleEndian.Uint32(reply); int(said) != len(reply) {
		c.t.Errorf("%v: the reply says %d bytes and has %d", opcode(binary.LittleEndian.Uint32(head[4:])), said, len(reply))
	}
	if !bytes.Equal(reply[8:16], head[8:16]) {
		c.t.Errorf("the reply is to %x, the request was %x", reply[8:16], head[8:16])
	}
	if errno := -int32(binary.LittleEndian.Uint32(reply[4:])); errno != 0 {
		return nil, unix.Errno(errno)
	}
	return reply[replySize:], nil
}

func decode[T any](c *client, b []byte, err error) (T, error) {
	c.t.Helper()
	var v T
	if err == nil {
		if _, err := binary.Decode(b, binary.LittleEndian, &v); err != nil {
			c.t.Fatalf("decode %T from %d bytes: %v", v, len(b), err)
		}
	}
	return v, err
}

func (c *client) begin() fuse.InitOut {
	c.t.Helper()
	b, err := c.call(opInit, 0, 64, uint32(7), uint32(41), uint32(128<<10), ^uint32(0), ^uint32(0), make([]byte, 44))
	if err != nil {
		c.t.Fatalf("INIT: %v", err)
	}
	le := binary.LittleEndian
	return fuse.InitOut{
		Major: le.Uint32(b), Minor: le.Uint32(b[4:]), Flags: le.Uint32(b[12:]), MaxWrite: le.Uint32(b[20:]),
		MaxPages: le.Uint16(b[28:]), Flags2: le.Uint32(b[32:]),
	}
}

const entrySize = 128

func (c *client) lookup(dir uint64, name string) (fuse.EntryOut, error) {
	c.t.Helper()
	b, err := c.call(opLookup, dir, entrySize, name)
	return decode[fuse.EntryOut](c, b, err)
}

func (c *client) mkdir(dir uint64, name string) (fuse.EntryOut, error) {
	b, err := c.call(opMkdir, dir, entrySize, uint32(0o755), uint32(0), name)
	return decode[fuse.EntryOut](c, b, err)
}

func (c *client) symlink(dir uint64, name, target string) (fuse.EntryOut, error) {
	b, err := c.call(opSymlink, dir, entrySize, name, target)
	return decode[fuse.EntryOut](c, b, err)
}

func (c *client) link(node, dir uint64, name string) (fuse.EntryOut, error) {
	b, err := c.call(opLink, dir, entrySize, node, name)
	return decode[fuse.EntryOut](c, b, err)
}

func (c *client) create(dir uint64, name string, flags uint32) (node, handle uint64, err error) {
	b, err := c.call(opCreate, dir, entrySize+16, flags, uint32(0o644), uint32(0), uint32(0), name)
	if err != nil {
		return 0, 0, err
	}
	return binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[entrySize:]), nil
}

func (c *client) open(node uint64, flags uint32) (uint64, error) {
	b, err := c.call(opOpen, node, 16, flags, uint32(0))
	out, err := decode[fuse.OpenOut](c, b, err)
	return out.Fh, err
}

func (c *client) openDir(node uint64) (uint64, error) {
	b, err := c.call(opOpendir, node, 16, uint32(0), uint32(0))
	out, err := decode[fuse.OpenOut](c, b, err)
	return out.Fh, err
}

func (c *client) read(node, handle, at uint64, size int) ([]byte, error) {
	return c.call(opRead, node, size, handle, at, uint32(size), uint32(0), uint64(0), uint32(0), uint32(0))
}

func (c *client) write(node, handle, at uint64, data []byte) (int, error) {
	b, err := c.call(opWrite, node, 8, handle, at, uint32(len(data)), uint32(0), uint64(0), uint32(0), uint32(0), data)
	out, err := decode[fuse.WriteOut](c, b, err)
	return int(out.Size), err
}

func (c *client) getattr(node uint64) (fuse.Attr, error) {
	b, err := c.call(opGetattr, node, 104, uint32(0), uint32(0), uint64(0))
	out, err := decode[fuse.AttrOut](c, b, err)
	return out.Attr, err
}

func (c *client) truncate(node, size uint64) error {
	in := fuse.SetAttrIn{}
	in.Valid, in.Size = fuse.FATTR_SIZE, size
	_, err := c.call(opSetattr, node, 104, words(in)[headerSize:])
	return err
}

func (c *client) release(handle uint64) error {
	_, err := c.call(opRelease, 0, 0, handle, uint32(0), uint32(0), uint64(0))
	return err
}

func (c *client) unlink(dir uint64, name string) error {
	_, err := c.call(opUnlink, dir, 0, name)
	return err
}

func (c *client) rename(from uint64, name string, to uint64, newName string, flags uint32) error {
	_, err := c.call(opRename2, from, 0, to, flags, uint32(0), name, newName)
	return err
}

func (c *client) forget(node, count uint64) { _, _ = c.call(opForget, node, 0, count) }

// list reads a whole directory, by READDIR or READDIRPLUS in replies of size bytes.
func (c *client) list(dir uint64, op opcode, size int) (names []string, entries []fuse.EntryOut, err error) {
	handle, err := c.openDir(dir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = c.release(handle) }()
	for at := uint64(0); ; {
		b, err := c.call(op, dir, size, handle, at, uint32(size), uint32(0), uint64(0), uint32(0), uint32(0))
		if err != nil || len(b) == 0 {
			return names, entries, err
		}
		var got []fuse.DirEntry
		if op == opReaddirplus {
			var outs []fuse.EntryOut
			got, outs, err = fuse.ParseDirLookupEntries(b)
			entries = append(entries, outs...)
		} else {
			got, err = fuse.ParseDirEntries(b)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("the reply cannot be parsed: %w", err)
		}
		for _, e := range got {
			names, at = append(names, e.Name), e.Off
		}
	}
}

// openFiles is how many descriptors this process has.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

const root = fuse.FUSE_ROOT_ID
