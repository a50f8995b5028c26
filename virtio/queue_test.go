package virtio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"bulkhead/virtio"
	"bulkhead/virtio/virtiotest"
)

const (
	next     = virtiotest.Next
	write    = virtiotest.Write
	indirect = virtiotest.Indirect
)

const ram = 1 << 20 // bytes

// pair is a queue and the driver's side of it.
type pair struct {
	mem  *virtiotest.Memory
	ring *virtiotest.Ring
	q    *virtio.Queue
}

func newPair(t testing.TB, size uint16, features uint64) *pair {
	t.Helper()
	p := &pair{mem: virtiotest.NewMemory(ram)}
	p.ring = virtiotest.NewRing(p.mem, size, features)
	q, err := virtio.NewQueue(p.mem, p.ring.Layout, features, size)
	if err != nil {
		t.Fatal(err)
	}
	p.q = q
	return p
}

// put writes text into guest memory.
func (p *pair) put(text string) virtio.Addr {
	at := p.mem.Alloc(len(text))
	copy(p.mem.Bytes(at, len(text)), text)
	return at
}

// table writes an indirect table.
func (p *pair) table(descs ...virtiotest.Desc) virtio.Addr {
	b := virtiotest.Table(descs...)
	at := p.mem.Alloc(len(b))
	copy(p.mem.Bytes(at, len(b)), b)
	return at
}

// TestChains is what a driver may put into a queue of four, and what not.
func TestChains(t *testing.T) {
	const features = virtio.FeatureIndirectDesc
	type D = virtiotest.Desc
	d := func(addr virtio.Addr, n uint32, flags, next uint16) D {
		return D{Addr: addr, Len: n, Flags: flags, Next: next}
	}
	for _, row := range []struct {
		name     string
		features uint64
		descs    func(p *pair) []D
		head     uint16
		read     string // what the device reads
		writable int
		err      string
	}{
		{name: "nothing", descs: func(*pair) []D { return []D{{}} }},
		{name: "one to read", descs: func(p *pair) []D { return []D{d(p.put("abc"), 3, 0, 9)} }, read: "abc"},
		{name: "one to write", descs: func(p *pair) []D { return []D{d(4096, 7, write, 0)} }, writable: 7},
		{name: "in any order", head: 3, read: "abcd", writable: 3, descs: func(p *pair) []D {
			return []D{d(4096, 1, write|next, 2), d(p.put("cd"), 2, next, 0), d(4096, 2, write, 1), d(p.put("ab"), 2, next, 1)}
		}},
		{name: "empty ones between", read: "ab", writable: 1, descs: func(p *pair) []D {
			return []D{d(^virtio.Addr(0), 0, next, 1), d(p.put("ab"), 2, next, 2), d(1<<40, 0, write|next, 3), d(4096, 1, write, 0)}
		}},
		{name: "the last byte of memory", writable: 1, descs: func(*pair) []D { return []D{d(ram-1, 1, write, 0)} }},
		{name: "past memory", err: "not RAM", descs: func(*pair) []D { return []D{d(ram-1, 2, write, 0)} }},
		{name: "beside memory", err: "not RAM", descs: func(*pair) []D { return []D{d(ram, 1, 0, 0)} }},
		{name: "address wraps", err: "not RAM", descs: func(*pair) []D { return []D{d(^virtio.Addr(0), 2, 0, 0)} }},
		{name: "address and length wrap", err: "not RAM", descs: func(*pair) []D { return []D{d(^virtio.Addr(0)-10, ^uint32(0), 0, 0)} }},
		{name: "second one past memory", err: "not RAM", descs: func(p *pair) []D { return []D{d(4096, 1, next, 1), d(1<<40, 1, 0, 0)} }},
		{name: "head outside", head: 4, err: "descriptor 4 of", descs: func(*pair) []D { return nil }},
		{name: "head far outside", head: 65535, err: "descriptor 65535 of", descs: func(*pair) []D { return nil }},
		{name: "next outside", err: "descriptor 4 of", descs: func(*pair) []D { return []D{d(4096, 1, next, 4)} }},
		{name: "loop of one", err: "more descriptors", descs: func(*pair) []D { return []D{d(4096, 1, next, 0)} }},
		{name: "loop of empty ones", err: "more descriptors", descs: func(*pair) []D { return []D{d(0, 0, next, 1), d(0, 0, next, 0)} }},
		{name: "readable after writable", err: "readable", descs: func(*pair) []D { return []D{d(4096, 1, write|next, 1), d(4096, 1, 0, 0)} }},

		{name: "indirect", features: features, read: "abc", writable: 4, descs: func(p *pair) []D {
			return []D{d(p.table(d(p.put("abc"), 3, next, 1), d(4096, 4, write, 0)), 32, indirect, 0)}
		}},
		{name: "indirect, flag write", features: features, read: "abc", descs: func(p *pair) []D {
			return []D{d(p.table(d(p.put("abc"), 3, 0, 0)), 16, indirect|write, 0)}
		}},
		{name: "direct, then indirect", features: features, read: "abc", descs: func(p *pair) []D {
			return []D{d(p.put("ab"), 2, next, 1), d(p.table(d(p.put("c"), 1, 0, 0)), 16, indirect, 0)}
		}},
		{name: "indirect, longer than the queue", features: features, read: "aaaaaaaa", descs: func(p *pair) []D {
			a := p.put("a")
			var table []D
			for i := range uint16(7) {
				table = append(table, d(a, 1, next, i+1))
			}
			return []D{d(p.table(append(table, d(a, 1, 0, 0))...), 8*16, indirect, 0)}
		}},
		{name: "indirect, not negotiated", err: "not negotiated", descs: func(p *pair) []D {
			return []D{d(p.table(d(4096, 3, 0, 0)), 16, indirect, 0)}
		}},
		{name: "indirect with next", features: features, err: "has a next", descs: func(p *pair) []D {
			return []D{d(p.table(d(4096, 3, 0, 0)), 16, indirect|next, 1), {}}
		}},
		{name: "nested", features: features, err: "within an indirect", descs: func(p *pair) []D {
			return []D{d(p.table(d(p.table(D{}), 16, indirect, 0)), 16, indirect, 0)}
		}},
		{name: "indirect into itself", features: features, err: "more descriptors", descs: func(p *pair) []D {
			return []D{d(p.table(d(4096, 1, next, 0)), 16, indirect, 0)}
		}},
		{name: "indirect, next outside", features: features, err: "descriptor 1 of a table of 1", descs: func(p *pair) []D {
			return []D{d(p.table(d(4096, 1, next, 1)), 16, indirect, 0)}
		}},
		{name: "no table", features: features, err: "table of 0 bytes", descs: func(p *pair) []D { return []D{d(4096, 0, indirect, 0)} }},
		{name: "odd table", features: features, err: "table of 17 bytes", descs: func(p *pair) []D { return []D{d(4096, 17, indirect, 0)} }},
		{name: "table past memory", features: features, err: "not RAM", descs: func(p *pair) []D { return []D{d(ram-16, 32, indirect, 0)} }},
		{name: "huge table", features: features, err: "not RAM", descs: func(p *pair) []D { return []D{d(4096, 0xfffffff0, indirect, 0)} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newPair(t, 4, row.features)
			for i, d := range row.descs(p) {
				p.ring.SetDesc(uint16(i), d)
			}
			p.ring.Offer(row.head)
			c, err := p.q.Next()
			if row.err != "" {
				if err == nil || !strings.Contains(err.Error(), row.err) {
					t.Fatalf("got %v, want an error with %q", err, row.err)
				}
				return
			}
			if err != nil || c == nil {
				t.Fatalf("got %v, %v", c, err)
			}
			if c.Head != row.head || c.Readable() != len(row.read) || c.Writable() != row.writable {
				t.Errorf("head %d, %d to read, %d to write; want %d, %d, %d", c.Head, c.Readable(), c.Writable(), row.head, len(row.read), row.writable)
			}
			if got, err := io.ReadAll(c); string(got) != row.read || err != nil {
				t.Errorf("read %q, %v, want %q", got, err, row.read)
			}
			if n, err := c.Write(make([]byte, row.writable+1)); n != row.writable || err != io.ErrShortWrite {
				t.Errorf("wrote %d, %v, want %d and a short write", n, err, row.writable)
			}
			if err := p.q.Push(c, row.writable); err != nil {
				t.Error(err)
			}
			if head, n, ok := p.ring.Reap(); !ok || head != uint32(row.head) || n != row.writable {
				t.Errorf("used: %d, %d bytes, %v", head, n, ok)
			}
		})
	}
}

// TestTooLong adds up to 4 GiB, from memory that is there but once.
func TestTooLong(t *testing.T) {
	p := &pair{mem: virtiotest.NewMemory(64 << 20)}
	p.ring = virtiotest.NewRing(p.mem, 64, 0)
	q, err := virtio.NewQueue(p.mem, p.ring.Layout, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint16(64) {
		p.ring.SetDesc(i, virtiotest.Desc{Addr: 0, Len: 64 << 20, Flags: next, Next: i + 1})
	}
	p.ring.SetDesc(63, virtiotest.Desc{Addr: 0, Len: 64<<20 - 1})
	p.ring.Offer(0)
	if c, err := q.Next(); err != nil || c.Readable() != 1<<32-1 {
		t.Errorf("a byte less than 4 GiB: %v", err)
	}
	p.ring.SetDesc(63, virtiotest.Desc{Addr: 0, Len: 64 << 20})
	p.ring.Offer(0)
	if c, err := q.Next(); err == nil {
		t.Errorf("a chain of %d bytes", c.Readable())
	}
}

// TestLongIndirect is as long as a chain may be, and a descriptor longer.
func TestLongIndirect(t *testing.T) {
	for _, row := range []struct {
		entries int
		ok      bool
	}{{1024, true}, {1025, false}} {
		p := newPair(t, 4, virtio.FeatureIndirectDesc)
		var descs []virtiotest.Desc
		for i := range row.entries {
			descs = append(descs, virtiotest.Desc{Addr: 4096, Len: 1, Flags: next, Next: uint16(i + 1)})
		}
		descs[row.entries-1].Flags = 0
		p.ring.SetDesc(0, virtiotest.Desc{Addr: p.table(descs...), Len: uint32(16 * row.entries), Flags: indirect})
		p.ring.Offer(0)
		if c, err := p.q.Next(); (err == nil) != row.ok || err == nil && c.Readable() != row.entries {
			t.Errorf("%d descriptors: %v", row.entries, err)
		}
	}
}

func TestSegments(t *testing.T) {
	p := newPair(t, 8, 0)
	a, b, room := p.put("abc"), p.put("defg"), p.put("......")
	p.ring.SetDesc(0, virtiotest.Desc{Addr: a, Len: 3, Flags: next, Next: 1})
	p.ring.SetDesc(1, virtiotest.Desc{Addr: b, Len: 4, Flags: next, Next: 2})
	p.ring.SetDesc(2, virtiotest.Desc{Addr: room, Len: 2, Flags: write | next, Next: 3})
	p.ring.SetDesc(3, virtiotest.Desc{Addr: room + 2, Len: 4, Flags: write})
	p.ring.Offer(0)
	c, err := p.q.Next()
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 2)
	if n, err := c.Read(head); n != 2 || err != nil || string(head) != "ab" {
		t.Errorf("read %q, %v", head[:n], err)
	}
	if got := bytes.Join(c.ReadSegments(), []byte("|")); string(got) != "c|defg" {
		t.Errorf("segments %q", got)
	}
	c.SkipRead(2)
	if got := bytes.Join(c.ReadSegments(), []byte("|")); string(got) != "efg" || c.Readable() != 3 {
		t.Errorf("segments %q, %d left", got, c.Readable())
	}
	if n, err := c.Write([]byte("X")); n != 1 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	copy(c.WriteSegments()[1], "YZ")
	c.SkipWrite(3)
	c.Write([]byte("!"))
	if got := p.mem.Bytes(room, 6); string(got) != "X.YZ!." || c.Written() != 5 || c.Writable() != 1 {
		t.Errorf("memory %q, %d written, %d left", got, c.Written(), c.Writable())
	}
	c.SkipRead(100)
	c.SkipWrite(100)
	if n, err := c.Read(head); n != 0 || err != io.EOF || c.Written() != 6 || len(c.WriteSegments()) != 0 {
		t.Errorf("past the end: %d, %v, %d written", n, err, c.Written())
	}
	for _, written := range []int{-1, 7, 1 << 40} {
		if err := p.q.Push(c, written); err == nil {
			t.Errorf("pushed %d bytes into room for 6", written)
		}
	}
}

// TestCopy uses the chain's own ways of io.Copy.
func TestCopy(t *testing.T) {
	broken := errors.New("broken")
	for _, row := range []struct {
		name string
		copy func(c *virtio.Chain) (int64, error)
		n    int64
		err  error
		left [2]int // to read and to write
		room string
	}{
		{"out", func(c *virtio.Chain) (int64, error) { return io.Copy(io.Discard, c) }, 7, nil, [2]int{0, 6}, "......"},
		{"out, broken", func(c *virtio.Chain) (int64, error) { return c.WriteTo(&stubborn{4, broken}) }, 4, broken, [2]int{3, 6}, "......"},
		{"out, short", func(c *virtio.Chain) (int64, error) { return c.WriteTo(&stubborn{4, nil}) }, 4, io.ErrShortWrite, [2]int{3, 6}, "......"},
		{"in", func(c *virtio.Chain) (int64, error) { return io.Copy(c, strings.NewReader("1234")) }, 4, nil, [2]int{7, 2}, "1234.."},
		{"in, all", func(c *virtio.Chain) (int64, error) { return io.Copy(c, strings.NewReader("123456")) }, 6, nil, [2]int{7, 0}, "123456"},
		{"in, too much", func(c *virtio.Chain) (int64, error) { return io.Copy(c, strings.NewReader("1234567")) }, 6, io.ErrShortWrite, [2]int{7, 0}, "123456"},
		{"in, n", func(c *virtio.Chain) (int64, error) { return io.CopyN(c, strings.NewReader("1234567"), 6) }, 6, nil, [2]int{7, 0}, "123456"},
		{"in, broken", func(c *virtio.Chain) (int64, error) { return io.Copy(c, iotest.ErrReader(broken)) }, 0, broken, [2]int{7, 6}, "......"},
		{"through", func(c *virtio.Chain) (int64, error) { return io.Copy(c, c) }, 6, io.ErrShortWrite, [2]int{1, 0}, "abcdef"},
	} {
		p := newPair(t, 8, 0)
		a, b, room := p.put("abc"), p.put("defg"), p.put("......")
		p.ring.SetDesc(0, virtiotest.Desc{Addr: a, Len: 3, Flags: next, Next: 1})
		p.ring.SetDesc(1, virtiotest.Desc{Addr: b, Len: 4, Flags: next, Next: 2})
		p.ring.SetDesc(2, virtiotest.Desc{Addr: room, Len: 2, Flags: write | next, Next: 3})
		p.ring.SetDesc(3, virtiotest.Desc{Addr: room + 2, Len: 4, Flags: write})
		p.ring.Offer(0)
		c, err := p.q.Next()
		if err != nil {
			t.Fatal(err)
		}
		n, err := row.copy(c)
		if n != row.n || err != row.err || c.Readable() != row.left[0] || c.Writable() != row.left[1] || string(p.mem.Bytes(room, 6)) != row.room {
			t.Errorf("%s: %d, %v, left %d and %d, wrote %q; want %d, %v, %v, %q", row.name,
				n, err, c.Readable(), c.Writable(), p.mem.Bytes(room, 6), row.n, row.err, row.left, row.room)
		}
	}
}

// stubborn takes so many bytes and no more.
type stubborn struct {
	room int
	err  error
}

func (s *stubborn) Write(p []byte) (int, error) {
	n := min(s.room, len(p))
	s.room -= n
	if n < len(p) {
		return n, s.err
	}
	return n, nil
}

func TestAvailableIndex(t *testing.T) {
	for _, row := range []struct {
		name string
		jump uint16
		ok   bool
	}{
		{"full", 4, true}, {"one too many", 5, false}, {"behind", ^uint16(0), false}, {"half way round", 1 << 15, false},
	} {
		p := newPair(t, 4, 0)
		p.ring.Jump(row.jump)
		if _, err := p.q.Next(); (err == nil) != row.ok {
			t.Errorf("%s: Next: %v", row.name, err)
		}
		if _, err := p.q.Peek(); (err == nil) != row.ok {
			t.Errorf("%s: Peek: %v", row.name, err)
		}
		if err := p.q.Wait(); err != nil {
			t.Errorf("%s: Wait: %v, and not Next's error", row.name, err)
		}
	}
}

// TestTooMany offers chains again that the device still has.
func TestTooMany(t *testing.T) {
	p := newPair(t, 4, 0)
	p.ring.Offer(0, 1, 2, 3)
	for range 4 {
		if c, err := p.q.Next(); c == nil || err != nil {
			t.Fatal(c, err)
		}
	}
	p.ring.Offer(0)
	if c, err := p.q.Next(); err == nil {
		t.Errorf("a fifth chain of a queue of four: %v", c)
	}
}

// TestBack moves the available index back to before what is taken already.
func TestBack(t *testing.T) {
	p := newPair(t, 4, 0)
	p.ring.Offer(0, 1, 2)
	for range 3 {
		if c, err := p.q.Next(); c == nil || err != nil {
			t.Fatal(c, err)
		}
	}
	p.ring.Jump(2)
	if c, err := p.q.Next(); err == nil {
		t.Errorf("took %v from an index that went back", c)
	}
}

// TestWrap goes round the 16-bit indices, and counts who is woken for what.
func TestWrap(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx} {
		p := newPair(t, 4, features)
		interrupts := 0
		p.q.SetInterrupt(func() { interrupts++ })
		const rounds = 70000
		for i := range rounds {
			ring := p.ring.Offer(uint16(i % 4))
			if want := i == 0 || i%2 == 1; ring != want {
				t.Fatalf("features %#x, request %d: driver rings: %v, want %v", features, i, ring, want)
			}
			if err := p.q.Wait(); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				p.ring.Arm()
			} else {
				p.ring.Mute()
			}
			c, err := p.q.Next()
			if c == nil || err != nil {
				t.Fatalf("features %#x, request %d: %v, %v", features, i, c, err)
			}
			if err := p.q.Push(c, 0); err != nil {
				t.Fatal(err)
			}
			if interrupts != i/2+1 {
				t.Fatalf("features %#x, request %d: %d interrupts, want %d", features, i, interrupts, i/2+1)
			}
			if head, _, ok := p.ring.Reap(); !ok || head != uint32(i%4) {
				t.Fatalf("features %#x, request %d: used %d, %v", features, i, head, ok)
			}
			if i%2 == 0 {
				sleepAndStop(t, p.q)
			}
		}
		if s := p.q.Save(); s.NextAvail != rounds&0xffff || s.NextAvail != s.NextUsed {
			t.Errorf("features %#x: %+v after %d requests", features, s, rounds)
		}
	}
}

// bell is a doorbell that stops its queue instead of sleeping.
type bell struct{ q *virtio.Queue }

func (b bell) Wait() error { b.q.Interrupt(); return nil }
func (bell) Ring()         {}

// sleepAndStop lets q arm and sleep, and stops it there.
func sleepAndStop(t *testing.T, q *virtio.Queue) {
	t.Helper()
	q.SetDoorbell(bell{q})
	if err := q.Wait(); err != virtio.ErrStopped {
		t.Fatalf("got %v, want ErrStopped", err)
	}
	q.Release()
}

func TestUnpop(t *testing.T) {
	p := newPair(t, 4, 0)
	p.ring.Offer(2, 1, 3)
	var chains []*virtio.Chain
	for range 3 {
		c, err := p.q.Next()
		if err != nil {
			t.Fatal(err)
		}
		chains = append(chains, c)
	}
	if err := p.q.Push(chains[0], 0); err != nil {
		t.Fatal(err)
	}
	p.q.Unpop(chains[2])
	p.q.Unpop(chains[1])
	if s := p.q.Save(); s != (virtio.QueueState{NextAvail: 1, NextUsed: 1}) {
		t.Errorf("one served of three: %+v", s)
	}
	for _, want := range []uint16{1, 3} {
		if c, err := p.q.Next(); err != nil || c.Head != want {
			t.Errorf("got %v, %v, want head %d", c, err, want)
		}
	}
}

func TestRestore(t *testing.T) {
	p := newPair(t, 4, virtio.FeatureEventIdx)
	for range 3 {
		p.ring.Offer(0)
		c, err := p.q.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.q.Push(c, 0); err != nil {
			t.Fatal(err)
		}
		p.ring.Reap()
	}
	p.ring.Offer(3)
	q, err := virtio.NewQueue(p.mem, p.ring.Layout, virtio.FeatureEventIdx, 4)
	if err != nil {
		t.Fatal(err)
	}
	q.Restore(p.q.Save())
	interrupts := 0
	q.SetInterrupt(func() { interrupts++ })
	// The driver's event is an entry from before: nothing of news to it.
	if c, err := q.Next(); err != nil || c.Head != 3 {
		t.Errorf("got %v, %v, want head 3", c, err)
	} else if err := q.Push(c, 0); err != nil || interrupts != 0 {
		t.Errorf("push, unarmed: %v, %d interrupts", err, interrupts)
	}
	p.ring.Reap()
	p.ring.Arm()
	p.ring.Offer(2)
	if c, err := q.Next(); err != nil || c.Head != 2 {
		t.Errorf("got %v, %v, want head 2", c, err)
	} else if err := q.Push(c, 0); err != nil || interrupts != 1 {
		t.Errorf("push, armed: %v, %d interrupts", err, interrupts)
	}
}

// TestServeGivesBack saves a queue whose device failed over a chain.
func TestServeGivesBack(t *testing.T) {
	p := newPair(t, 8, 0)
	p.ring.Offer(0)
	failed := make(chan error, 1)
	s := virtio.Serve(&answerer{err: errors.New("gone")})
	if err := s.Start(&virtio.Active{Queues: []*virtio.Queue{p.q, nil}, Fail: func(err error) { failed <- err }}); err != nil {
		t.Fatal(err)
	}
	<-failed
	s.Stop()
	s.Stop() // does nothing
	if got := p.q.Save(); got != (virtio.QueueState{}) {
		t.Errorf("got %+v, want nothing taken", got)
	}
}

// TestInterrupt stops a queue whose driver never ceases to offer.
func TestInterrupt(t *testing.T) {
	p := newPair(t, 4, 0)
	p.ring.Offer(0)
	p.q.Interrupt()
	if c, err := p.q.Next(); c != nil || err != nil {
		t.Errorf("Next of a stopped queue: %v, %v", c, err)
	}
	if err := p.q.Wait(); err != virtio.ErrStopped {
		t.Errorf("Wait of a stopped queue: %v", err)
	}
	p.q.Release()
	if c, err := p.q.Next(); c == nil || err != nil {
		t.Errorf("Next after Release: %v, %v", c, err)
	}
}

// TestServeStops wakes a sleeping server, and one whose source fails.
func TestServeStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &answerer{}
		d := virtiotest.StartIn(t, virtiotest.NewMemory(ram), dev, virtio.FeatureEventIdx)
		if got := d.Do(0, []byte("x"), 1); string(got) != "x" {
			t.Errorf("got %q", got)
		}
		synctest.Wait()
		d.Stop()
		d.Restart()
		if got := d.Do(1, []byte("y"), 1); string(got) != "y" {
			t.Errorf("after a restart: got %q", got)
		}
		dev.err = errors.New("gone")
		d.Send(0, [][]byte{[]byte("x")}, nil)
		if err := d.WaitFailed(); !errors.Is(err, dev.err) || !strings.Contains(err.Error(), "queue 0") {
			t.Errorf("failed for %v", err)
		}
		d.Stop()
	})
}

// answerer gives back what it reads.
type answerer struct {
	served atomic.Int64
	err    error
}

func (*answerer) ID() virtio.DeviceID { return 99 }
func (*answerer) Features() uint64    { return 0 }
func (*answerer) Queues() []uint16    { return []uint16{8, 8} }
func (a *answerer) Serve(_ int, c *virtio.Chain) (int, error) {
	a.served.Add(1)
	var b [256]byte
	n, _ := c.Read(b[:])
	n, _ = c.Write(b[:n])
	return n, a.err
}

// TestHammer looks for a wake-up that is lost: then it hangs.
func TestHammer(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx, virtio.FeatureEventIdx | virtio.FeatureIndirectDesc} {
		t.Run(fmt.Sprintf("%#x", features), func(t *testing.T) {
			dev := &answerer{}
			d := virtiotest.Start(t, dev, features)
			const drivers, requests = 4, 2000
			var all sync.WaitGroup
			for i := range drivers {
				all.Go(func() {
					for j := range requests {
						want := binary.LittleEndian.AppendUint32(nil, uint32(i*requests+j))
						if got := d.Send(i%2, [][]byte{want[:1], want[1:]}, []int{3, 1}).Wait(); !bytes.Equal(got, want) {
							t.Errorf("sent %v, got %v", want, got)
							return
						}
					}
				})
			}
			all.Wait()
			if got := dev.served.Load(); got != drivers*requests {
				t.Errorf("served %d, want %d", got, drivers*requests)
			}
		})
	}
}

// TestManyPush gives chains back from many goroutines at once.
func TestManyPush(t *testing.T) {
	p := newPair(t, 256, 0)
	for i := range uint16(256) {
		p.ring.SetDesc(i, virtiotest.Desc{Addr: 4096, Len: 1 << 12, Flags: write})
		p.ring.Offer(i)
	}
	start := make(chan struct{})
	var all sync.WaitGroup
	for range 256 {
		c, err := p.q.Next()
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			<-start
			if err := p.q.Push(c, int(c.Head)); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	all.Wait()
	seen := map[uint32]bool{}
	for head, n, ok := p.ring.Reap(); ok; head, n, ok = p.ring.Reap() {
		if seen[head] || n != int(head) {
			t.Errorf("head %d with %d bytes, seen before: %v", head, n, seen[head])
		}
		seen[head] = true
	}
	if len(seen) != 256 {
		t.Errorf("%d of 256 came back", len(seen))
	}
	if got, want := p.q.Traffic(), (virtio.Traffic{Chains: 256, Written: 255 * 256 / 2}); got != want {
		t.Errorf("traffic %+v, want %+v", got, want)
	}
}

// offerChain describes a chain of three at 0 and offers it.
func (p *pair) offerChain() {
	p.ring.SetDesc(0, virtiotest.Desc{Addr: 4096, Len: 16, Flags: next, Next: 1})
	p.ring.SetDesc(1, virtiotest.Desc{Addr: 8192, Len: 4096, Flags: write | next, Next: 2})
	p.ring.SetDesc(2, virtiotest.Desc{Addr: 12288, Len: 1, Flags: write})
	p.ring.Offer(0)
}

// round takes a chain through the queue and back.
func (p *pair) round(tb testing.TB, scratch []byte) {
	p.ring.Offer(0)
	c, err := p.q.Next()
	if c == nil || err != nil {
		tb.Fatal(c, err)
	}
	c.Read(scratch)
	c.SkipWrite(4096)
	c.Write(scratch[:1])
	if err := p.q.Push(c, c.Written()); err != nil {
		tb.Fatal(err)
	}
	p.ring.Reap()
}

func TestNoAllocations(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx} {
		p := newPair(t, 64, features)
		p.offerChain()
		if c, err := p.q.Next(); err != nil || p.q.Push(c, 0) != nil {
			t.Fatal(err)
		}
		scratch := make([]byte, 16)
		if n := testing.AllocsPerRun(1000, func() { p.round(t, scratch) }); n != 0 {
			t.Errorf("features %#x: %v allocations a request", features, n)
		}
	}
}

// BenchmarkQueue is a request of a header, 4 KiB and a status through the
// rings, without the copy of the data.
func BenchmarkQueue(b *testing.B) {
	for _, row := range []struct {
		name     string
		features uint64
	}{{"flags", 0}, {"event index", virtio.FeatureEventIdx}} {
		b.Run(row.name, func(b *testing.B) {
			p := newPair(b, 64, row.features)
			p.offerChain()
			if c, err := p.q.Next(); err != nil || p.q.Push(c, 0) != nil {
				b.Fatal(err)
			}
			scratch := make([]byte, 16)
			b.ReportAllocs()
			b.SetBytes(4096)
			for b.Loop() {
				p.round(b, scratch)
			}
		})
	}
}

// BenchmarkServe is the same between two goroutines, with a wake-up each way.
func BenchmarkServe(b *testing.B) {
	d := virtiotest.Start(b, &answerer{}, virtio.FeatureEventIdx)
	out := make([]byte, 64)
	for b.Loop() {
		d.Do(0, out, 64)
	}
}

// TestPauseUnderLoad pauses, replaces and goes on while requests come: none is
// lost and none is answered twice.
func TestPauseUnderLoad(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx} {
		dev := &answerer{}
		d := virtiotest.Start(t, dev, features)
		const drivers, requests = 4, 500
		var all sync.WaitGroup
		for i := range drivers {
			all.Go(func() {
				for j := range requests {
					want := []byte{byte(i), byte(j), byte(j >> 8)}
					if got := d.Do(i%2, want, 3); !bytes.Equal(got, want) {
						t.Errorf("sent %v, got %v", want, got)
						return
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { all.Wait(); close(done) }()
		served := int64(0)
		for pauses := 0; ; pauses++ {
			select {
			case <-done:
			default:
				if pauses%2 == 0 {
					d.Stop()
					d.Restart()
					continue
				}
				other := &answerer{}
				d.Replace(other)
				served, dev = served+dev.served.Load(), other
				continue
			}
			break
		}
		if served += dev.served.Load(); served != drivers*requests {
			t.Errorf("features %#x: served %d, want %d", features, served, drivers*requests)
		}
	}
}
