package syscalls

import (
	"math/bits"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func pollCalls() []row {
	return []row{
		{unix.SYS_POLL, poll, Full, ""},
		{unix.SYS_PPOLL, ppoll, Full, ""},
		{unix.SYS_SELECT, selectCall, Full, ""},
		{unix.SYS_PSELECT6, pselect6, Full, ""},
	}
}

// pollSet is a number of files that are waited for together.
type pollSet struct {
	files []*vfs.Description // nil: not open
	mask  []vfs.Events
	got   []vfs.Events
	nval  vfs.Events // what a descriptor that is not open reports
}

// scan looks at all files and returns how many have something to tell.
func (p *pollSet) scan() int {
	n := 0
	for i, d := range p.files {
		switch {
		case p.mask[i] == ^vfs.Events(0): // not to be looked at
			continue
		case d == nil:
			p.got[i] = p.nval
		default:
			p.got[i] = d.Ready(p.mask[i]) & (p.mask[i] | vfs.EventErr | vfs.EventHup)
		}
		if p.got[i] != 0 {
			n++
		}
	}
	return n
}

func (p *pollSet) release() {
	for _, d := range p.files {
		if d != nil {
			d.Unref()
		}
	}
}

// wait sleeps until scan finds something, a signal comes or the deadline is
// there (0: none; poll: do not sleep).
func (p *pollSet) wait(t *kernel.Task, deadline time.Duration, now bool) (int, error) {
	if n := p.scan(); n > 0 {
		return n, nil
	}
	if now {
		if t.Interrupted() { // fs/select.c, do_poll: even where nothing is waited for
			return 0, kernel.ERESTARTSYS
		}
		return 0, nil
	}
	c := make(chan struct{}, 1)
	for i, d := range p.files {
		if d == nil {
			continue
		}
		q := d.Queue()
		if q == nil {
			continue
		}
		w := t.Waiter(p.mask[i], c)
		q.Add(w)
		defer q.Remove(w)
	}
	for {
		if n := p.scan(); n > 0 {
			return n, nil
		}
		switch err := t.BlockOn(c, deadline); err {
		case nil:
		case unix.ETIMEDOUT:
			return 0, nil
		default:
			return 0, err
		}
	}
}

func poll(t *kernel.Task, a *Args) (uintptr, error) {
	ms := a.Int(2)
	var deadline time.Duration
	if ms > 0 {
		deadline = t.Kernel().Clock.Monotonic() + time.Duration(ms)*time.Millisecond
	}
	return pollUntil(t, a.Addr(0), a.Uint32(1), deadline, ms == 0)
}

func pollUntil(t *kernel.Task, at memory.Addr, n uint32, deadline time.Duration, now bool) (uintptr, error) {
	r, err := doPoll(t, at, n, deadline, now)
	if err == kernel.ERESTARTSYS {
		// One that does not wait is not interrupted.
		err = t.SetRestart(kernel.Restart{Call: unix.SYS_POLL, Deadline: deadline, Args: [4]uint64{uint64(at), uint64(n)}})
	}
	return r, err
}

func doPoll(t *kernel.Task, at memory.Addr, n uint32, deadline time.Duration, now bool) (uintptr, error) {
	if uint64(n) > t.Limit(unix.RLIMIT_NOFILE) {
		return 0, unix.EINVAL
	}
	b := make([]byte, 8*n)
	if err := in(t, at, b); err != nil {
		return 0, err
	}
	p := pollSet{files: make([]*vfs.Description, n), mask: make([]vfs.Events, n), got: make([]vfs.Events, n), nval: vfs.EventNval}
	defer p.release()
	for i := range p.files {
		fd := int(int32(le.Uint32(b[8*i:])))
		p.mask[i] = vfs.Events(le.Uint16(b[8*i+4:]))
		if fd < 0 {
			p.mask[i] = ^vfs.Events(0)
			continue
		}
		p.files[i], _ = t.FDs().Get(fd)
		if d := p.files[i]; d != nil && d.Flags()&unix.O_PATH != 0 {
			d.Unref()
			p.files[i] = nil // as if it were not open
		}
	}
	found, err := p.wait(t, deadline, now)
	if err != nil {
		return 0, err
	}
	for i := range p.files {
		le.PutUint16(b[8*i+6:], uint16(p.got[i]))
		if err := out(t, at+memory.Addr(8*i+6), b[8*i+6:8*i+8]); err != nil {
			return 0, err
		}
	}
	return uintptr(found), nil
}

func ppoll(t *kernel.Task, a *Args) (uintptr, error) {
	deadline, now, err := inTimeout(t, a.Addr(2))
	if err != nil {
		return 0, err
	}
	if a[3] != 0 {
		m, err := inMask(t, a.Addr(3), a.Size(4))
		if err != nil {
			return 0, err
		}
		t.WithMask(m)
	}
	n, err := doPoll(t, a.Addr(0), a.Uint32(1), deadline, now)
	if err == kernel.ERESTARTSYS {
		err = kernel.ERESTARTNOHAND
	}
	outTimeout(t, a.Addr(2), deadline)
	return n, err
}

// inTimeout reads an optional relative timespec.
func inTimeout(t *kernel.Task, at memory.Addr) (deadline time.Duration, now bool, err error) {
	if at == 0 {
		return 0, false, nil
	}
	ts, err := inTimespec(t, at)
	if err != nil {
		return 0, false, err
	}
	if !valid(ts) {
		return 0, false, unix.EINVAL
	}
	// Not Nano: a wait of 1<<62 seconds, which is how some say for ever, has 0 of them.
	return after(t, ts), ts == unix.Timespec{}, nil
}

// outTimeout writes what is left, as ppoll and pselect do; it may not be
// writable.
func outTimeout(t *kernel.Task, at memory.Addr, deadline time.Duration) {
	const sticky = 0x4000000 // STICKY_TIMEOUTS
	if at != 0 && t.Personality.Load()&sticky == 0 {
		left := max(deadline-t.Kernel().Clock.Monotonic(), 0)
		outTimespec(t, at, unix.NsecToTimespec(int64(left)))
	}
}

// What the three sets of select(2) mean (fs/select.c, POLLIN_SET …).
const (
	rdNorm, rdBand, wrNorm, wrBand = 0x40, 0x80, 0x100, 0x200

	selectIn  = rdNorm | rdBand | unix.POLLIN | unix.POLLHUP | unix.POLLERR
	selectOut = wrBand | wrNorm | unix.POLLOUT | unix.POLLERR
	selectEx  = unix.POLLPRI
)

func selectCall(t *kernel.Task, a *Args) (uintptr, error) {
	var deadline time.Duration
	now := false
	if a[4] != 0 {
		v, err := inStruct[[2]int64](t, a.Addr(4))
		if err != nil {
			return 0, err
		}
		if v[0] < 0 || v[1] < 0 {
			return 0, unix.EINVAL
		}
		ts := unix.Timespec{Sec: v[0] + v[1]/1e6, Nsec: v[1] % 1e6 * 1000}
		deadline, now = after(t, ts), ts == unix.Timespec{}
	}
	n, err := doSelect(t, a, deadline, now)
	if a[4] != 0 {
		left := timeval(max(deadline-t.Kernel().Clock.Monotonic(), 0))
		outStruct(t, a.Addr(4), &left)
	}
	return n, err
}

func pselect6(t *kernel.Task, a *Args) (uintptr, error) {
	deadline, now, err := inTimeout(t, a.Addr(4))
	if err != nil {
		return 0, err
	}
	if a[5] != 0 {
		v, err := inStruct[[2]uint64](t, a.Addr(5))
		if err != nil {
			return 0, err
		}
		if v[0] != 0 {
			m, err := inMask(t, memory.Addr(v[0]), v[1])
			if err != nil {
				return 0, err
			}
			t.WithMask(m)
		}
	}
	n, err := doSelect(t, a, deadline, now)
	outTimeout(t, a.Addr(4), deadline)
	return n, err
}

func doSelect(t *kernel.Task, a *Args, deadline time.Duration, now bool) (uintptr, error) {
	n := a.Int(0)
	if n < 0 {
		return 0, unix.EINVAL
	}
	n = min(n, 1<<20)
	words := (n + 63) / 64
	kinds := [3]vfs.Events{selectIn, selectOut, selectEx}
	var sets [3][]uint64
	for i := range sets {
		if a[1+i] == 0 {
			continue
		}
		b := make([]byte, 8*words)
		if err := in(t, a.Addr(1+i), b); err != nil {
			return 0, err
		}
		sets[i] = make([]uint64, words)
		for w := range sets[i] {
			sets[i][w] = le.Uint64(b[8*w:])
		}
		if n%64 != 0 && words > 0 {
			sets[i][words-1] &= 1<<(n%64) - 1
		}
	}
	p := pollSet{}
	defer p.release()
	var fds []int
	for w := range words {
		var any uint64
		for _, s := range sets {
			if s != nil {
				any |= s[w]
			}
		}
		for ; any != 0; any &= any - 1 {
			bit := any & -any
			fd := 64*w + bits.TrailingZeros64(any)
			d, err := t.FDs().Get(fd)
			if err != nil {
				return 0, err
			}
			var mask vfs.Events
			for i, s := range sets {
				if s != nil && s[w]&bit != 0 {
					mask |= kinds[i]
				}
			}
			p.files, p.mask, fds = append(p.files, d), append(p.mask, mask), append(fds, fd)
		}
	}
	p.got = make([]vfs.Events, len(p.files))
	if _, err := p.wait(t, deadline, now); err != nil {
		if err == kernel.ERESTARTSYS {
			err = kernel.ERESTARTNOHAND
		}
		return 0, err
	}
	total := 0
	for i, s := range sets {
		if s == nil {
			continue
		}
		b := make([]byte, 8*words)
		for j, fd := range fds {
			if s[fd/64]&(1<<(fd%64)) != 0 && p.got[j]&kinds[i] != 0 {
				b[fd/8] |= 1 << (fd % 8)
				total++
			}
		}
		if err := out(t, a.Addr(1+i), b); err != nil {
			return 0, err
		}
	}
	return uintptr(total), nil
}
