package ipc

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// task is a caller with an identity, that sleeps on a channel.
type task struct {
	vfs.Context
	creds vfs.Creds
	pid   int32
}

func newTask(pid int32, uid uint32) *task {
	return &task{vfs.SentryContext(), vfs.Creds{UID: uid, EUID: uid, FSUID: uid, GID: uid, EGID: uid, FSGID: uid}, pid}
}

func (t *task) Creds() *vfs.Creds                                { return &t.creds }
func (t *task) Memory() *memory.Space                            { return nil }
func (t *task) PID() int32                                       { return t.pid }
func (t *task) Arena() *memory.Arena                             { return nil }
func (t *task) Waiter(m vfs.Events, c chan struct{}) *vfs.Waiter { return vfs.NewWaiter(m, c) }
func (t *task) BlockOn(c <-chan struct{}, _ time.Duration) error { <-c; return nil }

const open = 0o666

// TestIDs: a place that is used again gets another id, and the old one is known to
// have gone.
func TestIDs(t *testing.T) {
	ns, a := New(nil), newTask(1, 0)
	first, _ := ns.MsgGet(a, Private, open)
	second, _ := ns.MsgGet(a, Private, open)
	if first != 0 || second != 1 {
		t.Fatalf("ids %d and %d, want 0 and 1", first, second)
	}
	if err := ns.MsgRemove(a, first); err != nil {
		t.Fatal(err)
	}
	third, _ := ns.MsgGet(a, Private, open)
	if third != 1<<idShift {
		t.Errorf("id %#x in a used place, want %#x", third, 1<<idShift)
	}
	if _, err := ns.MsgStat(a, first, false, false); err != unix.EIDRM {
		t.Errorf("stat of a removed id: %v, want %v", err, unix.EIDRM)
	}
	if _, err := ns.MsgStat(a, 77, false, false); err != unix.EINVAL {
		t.Errorf("stat of an id never given: %v, want %v", err, unix.EINVAL)
	}
}

// TestWants: which message of types 3, 1, 2, 1 msgrcv takes.
func TestWants(t *testing.T) {
	queue := []Message{{Type: 3}, {Type: 1}, {Type: 2}, {Type: 1}}
	for _, row := range []struct {
		typ    int64
		except bool
		want   int
	}{
		{0, false, 0}, {1, false, 1}, {2, false, 2}, {9, false, -1}, {-1, false, 1}, {-2, false, 1}, {-9, false, 1}, {-1 << 63, false, 1},
		{3, true, 1}, {1, true, 0},
	} {
		w := msgWant{typ: row.typ, except: row.except}
		if got := w.find(queue); got != row.want {
			t.Errorf("type %d, except %v: place %d, want %d", row.typ, row.except, got, row.want)
		}
	}
}

// TestSemHammer: what goroutines take and give leaves a set as it was, and undo
// lists put back what was not given.
func TestSemHammer(t *testing.T) {
	const goroutines, steps = 8, 300
	ns := New(nil)
	owner := newTask(1, 0)
	id, err := ns.SemGet(owner, Private, 2, open)
	if err != nil {
		t.Fatal(err)
	}
	ns.SemSetValues(owner, id, []uint16{3, 2})
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			a := newTask(int32(g+2), 0)
			undo := ns.NewUndo()
			list := func() *UndoList { return undo }
			for i := range steps {
				take := []SemOp{{Num: 0, Op: -1, Flags: SemUndo}, {Num: 1, Op: -1, Flags: SemUndo}}
				give := []SemOp{{Num: 0, Op: 1, Flags: SemUndo}, {Num: 1, Op: 1, Flags: SemUndo}}
				if err := ns.SemOp(a, id, take, 0, list); err != nil {
					t.Error(err)
				}
				if i == steps-1 && g%2 == 0 {
					break // the list gives it back
				}
				if err := ns.SemOp(a, id, give, 0, list); err != nil {
					t.Error(err)
				}
			}
			undo.Release(a.pid, 0)
		})
	}
	wg.Wait()
	if v, _ := ns.SemValues(owner, id); v[0] != 3 || v[1] != 2 {
		t.Errorf("values %v after all, want [3 2]", v)
	}
	if ns.sem.undone != 0 {
		t.Errorf("%d undo entries left", ns.sem.undone)
	}
	done := make(chan error)
	go func() {
		done <- ns.SemOp(newTask(99, 0), id, []SemOp{{Num: 0, Op: -10}}, 0, nil)
	}()
	for {
		if a, _ := ns.SemAbout(owner, id, 0); a.Rising == 1 {
			break
		}
	}
	ns.SemRemove(owner, id)
	if err := <-done; err != unix.EIDRM {
		t.Errorf("removed under a sleeper: %v, want %v", err, unix.EIDRM)
	}
}

// TestMsgHammer: every message sent is received once, and the bytes are counted
// back.
func TestMsgHammer(t *testing.T) {
	const pairs, each = 4, 200
	ns := New(nil)
	owner := newTask(1, 0)
	id, _ := ns.MsgGet(owner, Private, open)
	ns.MsgSet(owner, id, Owner{Mode: open}, 64)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int64]int{}
	for p := range pairs {
		wg.Go(func() {
			for i := range each {
				if err := ns.MsgSend(newTask(2, 0), id, Message{Type: int64(1 + p*each + i), Text: make([]byte, i%30)}, 0); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range each {
				m, err := ns.MsgReceive(newTask(3, 0), id, 100, 0, 0)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				seen[m.Type]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for typ, n := range seen {
		if n != 1 {
			t.Errorf("message %d came %d times", typ, n)
		}
	}
	if len(seen) != pairs*each || ns.msg.bytes != 0 {
		t.Errorf("%d messages of %d, %d bytes left", len(seen), pairs*each, ns.msg.bytes)
	}
}

// TestPermissions is ipcperms: creator and owner by the first three bits, their
// groups by the next, others by the last.
func TestPermissions(t *testing.T) {
	p := Perm{UID: 10, GID: 20, CUID: 11, CGID: 21, Mode: 0o640}
	for _, row := range []struct {
		uid, gid uint32
		want     uint32
		err      error
	}{
		{10, 0, 0o600, nil}, {11, 0, 0o600, nil}, {12, 20, 0o400, nil}, {12, 21, 0o400, nil}, {12, 20, 0o200, unix.EACCES},
		{12, 12, 0o400, unix.EACCES}, {10, 0, 0o100, unix.EACCES},
	} {
		a := newTask(1, row.uid)
		a.creds.EGID = row.gid
		if err := p.allows(a, row.want); err != row.err {
			t.Errorf("uid %d gid %d want %o: %v, want %v", row.uid, row.gid, row.want, err, row.err)
		}
	}
}
