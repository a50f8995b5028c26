package memory

import (
	"errors"
	"iter"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// account counts what one container has of an arena, and holds it to a limit.
type account struct {
	number uint8        // in accounts
	used   atomic.Int64 // pages
	limit  atomic.Int64 // pages, 0: none

	limitMu sync.Mutex
	onLimit func() bool
}

// accounts are those of a pool. With more than one each page has an owner, whose it stays
// until it is free, whoever else maps it meanwhile.
type accounts struct {
	list [1 << 8]atomic.Pointer[account]

	// owners are by unit as refs; nil while all of a unit's pages are the first account's.
	owners [maxPages / unitSize]atomic.Pointer[[unitPages]uint8]

	mu sync.Mutex
}

// first makes the account that there always is.
func (as *accounts) first() *account {
	a := &account{}
	as.list[0].Store(a)
	return a
}

// errAccounts: as many containers at one time are not foreseen.
var errAccounts = errors.New("memory: 256 containers are in this sandbox already")

// Divide gives an account of its own over the same memory. limit is in bytes; 0 is none.
func (a *Arena) Divide(limit uint64) (*Arena, error) {
	as := &a.accounts
	as.mu.Lock()
	defer as.mu.Unlock()
	for i := range as.list {
		old := as.list[i].Load()
		// One that was given up is free for another when nobody uses a page of it any more.
		if old != nil && !(old.limit.Load() == givenUp && old.used.Load() == 0) {
			continue
		}
		n := &Arena{pool: a.pool, account: &account{number: uint8(i)}}
		n.SetLimit(limit)
		as.list[i].Store(n.account)
		return n, nil
	}
	return nil, errAccounts
}

// givenUp as a limit allows nothing more.
const givenUp = -1

// GiveUp ends an account that Divide made, once nothing runs on it. Others may still have
// pages of it, which count for nobody then, and are theirs until they are free.
func (a *Arena) GiveUp() {
	a.SetOnLimit(nil)
	a.limit.Store(givenUp)
}

// take counts n pages that have been allocated, and give such as are free.
func (a *Arena) take(pfn, n uint32) {
	a.used.Add(int64(n))
	for unit, e := range byUnit(pfn, n) {
		o := a.accounts.owners[unit].Load()
		if o == nil {
			if a.number == 0 {
				continue
			}
			o = a.accounts.own(unit)
		}
		for i := e.pfn; i < e.pfn+e.n; i++ {
			o[i] = a.number
		}
	}
}

func (a *Arena) give(pfn, n uint32) {
	for unit, e := range byUnit(pfn, n) {
		if o := a.accounts.owners[unit].Load(); o != nil {
			for r := range runs(o[e.pfn : e.pfn+e.n]) {
				a.accounts.list[r.owner].Load().used.Add(-r.n)
			}
		} else {
			a.accounts.list[0].Load().used.Add(-int64(e.n))
		}
	}
}

func (as *accounts) own(unit uint32) *[unitPages]uint8 {
	o := new([unitPages]uint8)
	if !as.owners[unit].CompareAndSwap(nil, o) {
		o = as.owners[unit].Load()
	}
	return o
}

// byUnit divides pages in a row by unit; what it gives counts from the unit's first.
func byUnit(pfn, n uint32) iter.Seq2[uint32, extent] {
	return func(yield func(uint32, extent) bool) {
		for n > 0 {
			e := extent{pfn % unitPages, min(n, unitPages-pfn%unitPages)}
			if !yield(pfn/unitPages, e) {
				return
			}
			pfn, n = pfn+e.n, n-e.n
		}
	}
}

type run struct {
	owner uint8
	n     int64
}

// runs divides owners of pages into those that follow each other.
func runs(owners []uint8) iter.Seq[run] {
	return func(yield func(run) bool) {
		for len(owners) > 0 {
			r := run{owner: owners[0]}
			for int(r.n) < len(owners) && owners[r.n] == r.owner {
				r.n++
			}
			if owners = owners[r.n:]; !yield(r) {
				return
			}
		}
	}
}

// SetLimit sets how many bytes may be in use; 0 is without limit.
func (a *Arena) SetLimit(bytes uint64) { a.limit.Store(int64(bytes / PageSize)) }

// Limit is how many bytes may be in use; 0 is without limit.
func (a *Arena) Limit() uint64 { return uint64(max(0, a.limit.Load())) * PageSize }

// most is how many pages there can be, whatever becomes free; 0: unknown.
func (a *Arena) most() uint64 {
	if l := a.limit.Load(); l > 0 {
		return uint64(l)
	}
	return uint64(a.total.Load())
}

// SetOnLimit sets what is called when an allocation would pass the limit. It
// runs without locks of this room and says whether memory may have become free.
func (a *Arena) SetOnLimit(f func() bool) {
	a.limitMu.Lock()
	defer a.limitMu.Unlock()
	a.onLimit = f
}

// Usage is how many bytes are in use, on this account.
func (a *Arena) Usage() uint64 { return uint64(max(a.used.Load(), 0)) * PageSize }

// full says whether n more pages would pass the limit.
func (a *account) full(n int64) bool {
	l := a.limit.Load()
	return l > 0 && a.used.Load()+n > l || l == givenUp
}

// relieve answers errLimit: it says whether another try makes sense. Any other
// error it leaves to the caller.
func (a *Arena) relieve(err error, try int) bool {
	if err != errLimit || try >= 64 {
		return false
	}
	a.limitMu.Lock()
	f := a.onLimit
	a.limitMu.Unlock()
	return f != nil && f()
}

// Charge counts pages of the Sentry's own that hold what a program has given it (a
// pipe's bytes) as in use; fewer than 0 gives some back, which never fails. The error,
// if the limit would be passed, is for Relieve and Errno.
func (a *Arena) Charge(pages int64) error {
	if pages > 0 && a.full(pages) {
		return errLimit
	}
	a.used.Add(pages)
	return nil
}

// Relieve answers Charge's error as it answers one of the arena's own: it says whether
// another try makes sense. The caller holds no lock.
func (a *Arena) Relieve(err error, try int) bool { return a.relieve(err, try) }

// Errno is what an application hears of an error of Charge's; others are left as they are.
func Errno(err error) error { return errnoOf(err) }

// errnoOf makes of errLimit what an application hears.
func errnoOf(err error) error {
	if err == errLimit || err == platform.ErrMemory {
		return unix.ENOMEM
	}
	return err
}

// tight says that memory is short: nothing should be mapped ahead or kept.
func (a *Arena) tight() bool {
	l := a.limit.Load()
	return l > 0 && a.used.Load() > l-l/4 || l == givenUp
}

// plenty says that memory may be spent to save time.
func (a *Arena) plenty() bool {
	l := a.limit.Load()
	return l == 0 || a.used.Load()+hugePages < l/2
}
