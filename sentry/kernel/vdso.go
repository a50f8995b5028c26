package kernel

import (
	"fmt"
	"math/bits"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// The layout of the page of numbers that the vDSO reads (loader, vdsoCode).
const (
	vvarSeq   = 0  // odd while the numbers change
	vvarTSC   = 8  // of the time below
	vvarLimit = 16 // ticks after which the numbers are too old
	vvarMult  = 24 // nanoseconds a tick, 32 bits of fraction
	vvarBase  = 32 // nanoseconds of clock id n at vvarTSC, 8 bytes each, ids 0 to 7
)

// vdso is what the clock functions of programs read: the time as a line through
// the time stamp counter. Nobody keeps it up to date; a program that finds it
// too old makes a system call, which draws the line anew. So an idle container
// wakes nobody. Calls that ask for the time read the same line, which makes
// both agree.
type vdso struct {
	mu   sync.Mutex
	vvar *memory.Object
	old  *memory.Object // zeros
	code *memory.Object
	page memory.Run // vvar's first page, as the Sentry sees it

	tsc0  uint64        // of the first reading
	mono0 time.Duration // CLOCK_MONOTONIC then
	cur   line
}

// line is time = base + (tsc - from) * mult >> 32, for limit ticks.
type line struct {
	from, limit uint64
	mult        uint64
	base        time.Duration // monotonic
	real        int64         // CLOCK_REALTIME - CLOCK_MONOTONIC, nanoseconds
}

func (l *line) at(tsc uint64) time.Duration {
	hi, lo := bits.Mul64(tsc-l.from, l.mult)
	return l.base + time.Duration(hi<<32|lo>>32)
}

func (v *vdso) init(a *memory.Arena) (err error) {
	v.vvar = memory.NewObject(a)
	if err := v.vvar.Truncate(memory.PageSize); err != nil {
		return fmt.Errorf("vvar: %w", err)
	}
	v.old = memory.NewObject(a)
	if err := v.old.Truncate(memory.PageSize); err != nil {
		return fmt.Errorf("vvar: %w", err)
	}
	if v.page, err = v.vvar.Pages(0, memory.PageSize, true); err != nil {
		return fmt.Errorf("vvar: %w", err)
	}
	v.tsc0, v.mono0 = reading()
	return nil
}

// reading is the counter and CLOCK_MONOTONIC at one moment.
func reading() (uint64, time.Duration) { return bestReading(monotonic) }

// bestReading is the counter and a clock at one moment: of a few tries the one that
// took the least time.
func bestReading(clock func() time.Duration) (uint64, time.Duration) {
	best := ^uint64(0)
	var tsc uint64
	var mono time.Duration
	for range 3 {
		before := rdtsc()
		m := clock()
		after := rdtsc()
		if after-before < best {
			best, tsc, mono = after-before, before+(after-before)/2, m
		}
	}
	return tsc, mono
}

// VVAR is the page of numbers as something to map, for programs of time namespace n
// (nil: the first). Where clocks are shifted it is one that is always too old, so that
// they make the system call.
func (k *Kernel) VVAR(n *TimeNamespace) memory.Mappable {
	if n != nil {
		if mono, boot := n.Offsets(); mono != 0 || boot != 0 {
			return k.vdso.old
		}
	}
	return k.vdso.vvar
}

// VDSO is the image, made by build the first time.
func (k *Kernel) VDSO(build func() []byte) (memory.Mappable, error) {
	v := &k.vdso
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.code != nil {
		return v.code, nil
	}
	o := memory.NewObject(k.Arena)
	if _, err := o.WriteAt(memory.Buffers{build()}, 0); err != nil {
		return nil, fmt.Errorf("vdso: %w", err)
	}
	v.code = o
	return o, nil
}

// The line holds for a time that grows as its slope gets more certain.
const (
	firstLimit = 20 * time.Millisecond
	lastLimit  = 2 * time.Second
)

// Refresh draws the line anew if half of its time is over, or if force says so,
// and returns CLOCK_MONOTONIC and CLOCK_REALTIME (nanoseconds) on it.
func (k *Kernel) Refresh(force bool) (mono time.Duration, real int64) {
	v := &k.vdso
	v.mu.Lock()
	defer v.mu.Unlock()
	tsc, now := reading()
	old := v.cur
	if old.mult != 0 && !force && tsc-old.from <= old.limit/2 {
		m := old.at(tsc)
		return m, int64(m) + old.real
	}
	real = k.Clock.Realtime() - int64(now)
	span := now - v.mono0
	if tsc <= v.tsc0 || span < time.Millisecond {
		return now, int64(now) + real
	}
	n := line{from: tsc, base: now, real: real}
	n.mult, _ = bits.Div64(uint64(span)>>32, uint64(span)<<32, tsc-v.tsc0)
	valid := min(max(span, firstLimit), lastLimit)
	n.limit, _ = bits.Div64(uint64(valid)>>32, uint64(valid)<<32, n.mult)
	if old.mult != 0 {
		// Programs have seen the old line, at most to its end: the new one starts no
		// earlier, and if that is ahead of time it runs slower until it is right.
		if ahead := old.at(min(tsc, old.from+old.limit)) - now; ahead > 0 {
			n.base += ahead
			slower := min(uint64(ahead)*1000/uint64(valid), 500) // thousandths
			n.mult -= n.mult / 1000 * slower
		}
	}
	v.cur = n
	v.publish(k.Clock.bootDelta)
	return n.base, int64(n.base) + real
}

func (v *vdso) publish(bootDelta time.Duration) {
	n := &v.cur
	w := vvarWords{tsc: n.from, limit: n.limit, mult: n.mult}
	mono, real := uint64(n.base), uint64(int64(n.base)+n.real)
	w.base[unix.CLOCK_MONOTONIC], w.base[unix.CLOCK_MONOTONIC_COARSE] = mono, mono
	w.base[unix.CLOCK_REALTIME], w.base[unix.CLOCK_REALTIME_COARSE] = real, real
	w.base[unix.CLOCK_BOOTTIME] = mono + uint64(bootDelta)
	w.store(v.page.Host)
}

// vvarWords are the numbers behind vvarSeq, in their order.
type vvarWords struct {
	tsc, limit, mult uint64
	base             [8]uint64
}
