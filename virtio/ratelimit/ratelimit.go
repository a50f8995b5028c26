// Package ratelimit holds back a device that would use more of its host than
// it was given: a token bucket for bytes and one for operations. It knows
// neither queues nor devices; those ask it how long to wait.
package ratelimit

import (
	"math/bits"
	"sync"
	"time"
)

// Rate is what one bucket lets through. The zero Rate lets everything through.
type Rate struct {
	PerSecond uint64 // bytes or operations
	Burst     uint64 // as many may pass at once after a rest
}

// Limits are a device's: both buckets must have room.
type Limits struct{ Bytes, Ops Rate }

// Limiter enforces Limits for all queues of a device together. A nil Limiter
// holds nobody back.
type Limiter struct {
	mu         sync.Mutex
	bytes, ops bucket
}

// New is a Limiter with full buckets, or nil if l limits nothing.
func New(l Limits) *Limiter {
	if l == (Limits{}) {
		return nil
	}
	return &Limiter{bytes: bucket{Rate: l.Bytes}, ops: bucket{Rate: l.Ops}}
}

// Take charges one operation of n bytes and says how long to wait before it is
// done. Those that ask later wait longer, so the order of asking is kept.
func (l *Limiter) Take(n int) time.Duration {
	if l == nil {
		return 0
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.bytes.take(now, uint64(n)), l.ops.take(now, 1))
}

// Wait is Take and the wait. It says false if stop was closed first; then the
// operation is not done, and what it was charged is given back.
func (l *Limiter) Wait(n int, stop <-chan struct{}) bool {
	delay := l.Take(n)
	if delay == 0 {
		return true
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		l.giveBack(n)
		return false
	}
}

func (l *Limiter) giveBack(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes.giveBack(uint64(n))
	l.ops.giveBack(1)
}

// bucket keeps, instead of a level that must be topped up, the time at which it
// will be full again (the virtual scheduling of ITU-T I.371).
type bucket struct {
	Rate
	full time.Time
}

// take moves that time by what n cost. A bucket owes when it would take longer
// to fill than Burst does; an operation larger than Burst passes, and is paid for after.
func (b *bucket) take(now time.Time, n uint64) time.Duration {
	if b.PerSecond == 0 {
		return 0
	}
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(b.cost(n))
	return max(0, b.full.Sub(now)-b.cost(b.Burst))
}

func (b *bucket) giveBack(n uint64) {
	if b.PerSecond != 0 {
		b.full = b.full.Add(-b.cost(n))
	}
}

// longest bounds a cost, so that sums of them stay far from overflow.
const longest = 365 * 24 * time.Hour

// cost is the time in which n flow in.
func (b *bucket) cost(n uint64) time.Duration {
	hi, lo := bits.Mul64(n, uint64(time.Second))
	if hi >= b.PerSecond {
		return longest
	}
	t, _ := bits.Div64(hi, lo, b.PerSecond)
	return time.Duration(min(t, uint64(longest)))
}
