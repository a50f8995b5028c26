package kernel

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Pending signals come synchronous first, then by number, of one number the
// oldest; standard ones are kept once (signal(7), Queueing and delivery).
func TestPending(t *testing.T) {
	const rt = unix.Signal(40)
	var p pendingSignals
	add := func(sig unix.Signal, value uint32) {
		i := newInfo(sig, SI_QUEUE)
		i.put32(24, value)
		if err := p.add(i, 100, false); err != nil {
			t.Fatalf("add %d: %v", sig, err)
		}
	}
	add(rt, 1)
	add(unix.SIGTERM, 2)
	add(unix.SIGTERM, 3) // the same once more: lost
	add(rt, 4)
	add(unix.SIGUSR1, 5)
	add(unix.SIGSEGV, 6)
	if i := p.take(set(unix.SIGINT)); i != nil {
		t.Errorf("took signal %d, which was not asked for", i.Signo())
	}
	for _, want := range []struct {
		sig   unix.Signal
		value uint32
	}{{unix.SIGSEGV, 6}, {unix.SIGUSR1, 5}, {unix.SIGTERM, 2}, {rt, 1}, {rt, 4}} {
		i := p.take(^SigSet(0))
		if i == nil || i.Signo() != want.sig || i.Uint32(24) != want.value {
			t.Fatalf("took %v, want signal %d with value %d", i, want.sig, want.value)
		}
	}
	if p.set != 0 || len(p.infos) != 0 {
		t.Errorf("left: set %x, %d infos", p.set, len(p.infos))
	}
}

// Real-time signals beyond RLIMIT_SIGPENDING are EAGAIN for who queues them.
func TestPendingLimit(t *testing.T) {
	var p pendingSignals
	for n := range 3 {
		err := p.add(newInfo(40, SI_QUEUE), 2, false)
		if want := n == 2; (err == unix.EAGAIN) != want {
			t.Errorf("signal %d: %v", n, err)
		}
	}
}

func TestEndOf(t *testing.T) {
	for _, row := range []struct{ status, code, value int32 }{
		{3 << 8, 1, 3}, {9, 2, 9}, {11 | 0x80, 3, 11}, {0, 1, 0},
	} {
		if code, value := endOf(row.status); code != row.code || value != row.value {
			t.Errorf("status %#x: code %d value %d, want %d %d", row.status, code, value, row.code, row.value)
		}
	}
}

// The comparison of FUTEX_WAKE_OP is signed, with a sign-extended 12-bit operand.
func TestFutexCompare(t *testing.T) {
	op := func(cmp, arg uint32) uint32 { return cmp<<24 | arg&0xfff }
	for _, row := range []struct {
		old  uint32
		op   uint32
		want bool
	}{
		{5, op(0, 5), true}, {5, op(1, 5), false}, {0xffffffff, op(2, 0), true}, {0xffffffff, op(0, 0xfff), true},
		{7, op(3, 7), true}, {7, op(4, 0xfff), true}, {7, op(5, 8), false},
	} {
		if got, err := futexCompare(row.old, row.op); err != nil || got != row.want {
			t.Errorf("%d against %#x: %v %v, want %v", int32(row.old), row.op, got, err, row.want)
		}
	}
	if _, err := futexCompare(0, op(9, 0)); err != unix.ENOSYS {
		t.Errorf("unknown comparison: %v", err)
	}
}
