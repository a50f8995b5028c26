package uring

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/fstest"
	"bulkhead/sentry/vfs"
)

func newRing(tb testing.TB, entries uint32, p Params) *Ring {
	d, err := New(fstest.NewArena(tb), entries, &p)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Unref)
	return d.File().(*Ring)
}

func TestSetup(t *testing.T) {
	for _, row := range []struct {
		entries uint32
		p       Params
		sq, cq  uint32
		err     error
	}{
		{entries: 1, sq: 1, cq: 2},
		{entries: 5, sq: 8, cq: 16},
		{entries: 32768, sq: 32768, cq: 65536},
		{entries: 32769, err: unix.EINVAL},
		{entries: 1 << 31, p: Params{Flags: SetupClamp}, sq: 32768, cq: 65536},
		{entries: 4, p: Params{Flags: SetupCQSize, CQEntries: 100}, sq: 4, cq: 128},
		{entries: 4, p: Params{Flags: SetupCQSize, CQEntries: 3}, sq: 4, cq: 4},
		{entries: 4, p: Params{Flags: SetupCQSize, CQEntries: 2}, err: unix.EINVAL},
		{entries: 4, p: Params{Flags: SetupCQSize, CQEntries: 1 << 31}, err: unix.EINVAL},
		{entries: 4, p: Params{Flags: SetupSQPoll}, err: unix.EINVAL},
		{entries: 4, p: Params{Flags: SetupDeferTaskrun}, err: unix.EINVAL},
	} {
		p := row.p
		d, err := New(fstest.NewArena(t), row.entries, &p)
		if err != row.err || err == nil && (p.SQEntries != row.sq || p.CQEntries != row.cq) {
			t.Errorf("%d entries, %+v: %v, %d and %d, want %v, %d and %d", row.entries, row.p, err, p.SQEntries, p.CQEntries, row.err, row.sq, row.cq)
		}
		if err == nil {
			d.Unref()
		}
	}
}

func TestOverflow(t *testing.T) {
	r := newRing(t, 1, Params{})
	for i := range 5 {
		r.Post(CQE{UserData: uint64(i)})
	}
	if n := r.Available(); n != 5 {
		t.Errorf("available %d, want 5", n)
	}
	if r.rings.Load(sqFlags)&sqCQOverflow == 0 {
		t.Error("no overflow flag")
	}
	for want := range uint64(5) {
		r.Available()
		var b [cqeSize]byte
		head := r.rings.Load(cqHead)
		r.rings.ReadBytes(cqes+cqeSize*(head&(r.cqN-1)), b[:])
		if got := binary.LittleEndian.Uint64(b[:]); got != want {
			t.Errorf("result %d, want %d", got, want)
		}
		r.rings.Store(cqHead, head+1)
	}
	if n := r.Available(); n != 0 || r.rings.Load(sqFlags) != 0 {
		t.Errorf("%d left, flags %#x", n, r.rings.Load(sqFlags))
	}
}

// FuzzRing gives the Sentry's side rings that a program has filled with anything.
func FuzzRing(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 0}, uint32(0), uint32(0), uint32(4))
	f.Add(make([]byte, 600), uint32(1<<31), uint32(0xffffffff), uint32(100))
	f.Fuzz(func(t *testing.T, b []byte, tail, head, n uint32) {
		r := newRing(t, 4, Params{})
		r.rings.WriteBytes(r.array, b[:min(len(b), 16)])
		r.sqes.WriteBytes(0, b[:min(len(b), 4*sqeSize)])
		r.rings.Store(sqTail, tail)
		r.rings.Store(cqHead, head)
		r.rings.Store(sqHead, ^tail)
		taken := uint32(0)
		if done := r.Submit(n, func(s SQE) bool {
			taken++
			s.Known()
			r.Post(CQE{UserData: s.UserData})
			return s.Opcode != 255
		}); done != taken || done > 4 {
			t.Fatalf("took %d, said %d", taken, done)
		}
		if a := r.Available(); a > r.cqN+taken {
			t.Fatalf("%d available of %d", a, r.cqN)
		}
		r.Ready(vfs.EventIn | vfs.EventOut)
	})
}
