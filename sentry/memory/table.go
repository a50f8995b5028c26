package memory

import (
	"maps"
	"slices"
	"sync/atomic"
)

// leaf has the pages of 2 MiB: page numbers of the arena, 0 for none. Spaces
// share leaves after a fork: while refs is above 1 a leaf does not change, and a
// page in it belongs to nobody alone.
type leaf struct {
	refs atomic.Int32
	n    int // pages present
	pfn  [hugePages]uint32
}

// table says which pages of the arena stand at which page numbers of a space or
// an object. It holds a reference to each. Its owner's mutex guards it.
type table struct {
	a      *Arena
	leaves map[uint64]*leaf // by page number / 512
	pages  int              // present
	stale  []uint32         // replaced, but still mapped

	// spare is an empty leaf of the last 2 MiB that had pages no more, or nil. Programs
	// map, use and unmap a little again and again, and make no garbage of 2 KiB by it;
	// of objects, which are many, none keeps one.
	spare  *leaf
	spares bool
}

func newTable(a *Arena) table { return table{a: a, leaves: map[uint64]*leaf{}} }

func (t *table) get(vpn uint64) uint32 {
	if l := t.leaves[vpn/hugePages]; l != nil {
		return l.pfn[vpn%hugePages]
	}
	return 0
}

// exclusive says that vpn's page is nobody else's.
func (t *table) exclusive(vpn uint64) bool {
	l := t.leaves[vpn/hugePages]
	return l != nil && l.refs.Load() == 1 && t.a.exclusive(l.pfn[vpn%hugePages])
}

// run is the longest run from vpn on, below end and within a leaf, of pages that
// lie in a row in the arena, and are all exclusive if own is set.
func (t *table) run(vpn, end uint64, own bool) extent {
	l := t.leaves[vpn/hugePages]
	if l == nil {
		return extent{}
	}
	i := vpn % hugePages
	first := l.pfn[i]
	if first == 0 || own && l.refs.Load() != 1 {
		return extent{}
	}
	most := uint32(min(end-vpn, hugePages-i))
	n := uint32(0)
	for n < most && l.pfn[i+uint64(n)] == first+n && (!own || t.a.exclusive(first+n)) {
		n++
	}
	return extent{first, n}
}

// holes counts the missing pages from vpn on, at most up to end.
func (t *table) holes(vpn, end uint64) uint64 {
	at := vpn
	for at < end {
		l := t.leaves[at/hugePages]
		stop := min(end, (at/hugePages+1)*hugePages)
		if l == nil || l.n == 0 {
			at = stop
			continue
		}
		for ; at < stop; at++ {
			if l.pfn[at%hugePages] != 0 {
				return at - vpn
			}
		}
	}
	return at - vpn
}

// filled counts the pages present from vpn on, at most up to end.
func (t *table) filled(vpn, end uint64) uint64 {
	at := vpn
	for at < end {
		l := t.leaves[at/hugePages]
		stop := min(end, (at/hugePages+1)*hugePages)
		if l == nil {
			break
		}
		if l.n == hugePages {
			at = stop
			continue
		}
		for at < stop && l.pfn[at%hugePages] != 0 {
			at++
		}
		if at < stop {
			break
		}
	}
	return at - vpn
}

// own gives the leaf of vpn, made or copied so that it may be changed.
func (t *table) own(vpn uint64) *leaf {
	l := t.leaves[vpn/hugePages]
	switch {
	case l == nil:
		if l, t.spare = t.spare, nil; l == nil {
			l = new(leaf)
		}
		l.refs.Store(1)
	case l.refs.Load() > 1:
		l = t.copyLeaf(l)
	default:
		return l
	}
	t.leaves[vpn/hugePages] = l
	return l
}

func (t *table) copyLeaf(shared *leaf) *leaf {
	l := &leaf{n: shared.n, pfn: shared.pfn}
	l.refs.Store(1)
	for _, pfn := range l.pfn {
		if pfn != 0 {
			t.a.ref(pfn)
		}
	}
	t.dropLeaf(shared)
	return l
}

// dropLeaf gives up one use of a leaf, and its pages with the last.
func (t *table) dropLeaf(l *leaf) {
	if l.refs.Add(-1) > 0 {
		return
	}
	t.dropPages(l, 0, hugePages)
	t.keep(l)
}

// keep takes an empty leaf that nobody else has.
func (t *table) keep(l *leaf) {
	if t.spares {
		t.spare = l
	}
}

// dropPages gives up the pages of a leaf that nobody else uses.
func (t *table) dropPages(l *leaf, i, end uint64) (dropped int) {
	for i < end {
		first := l.pfn[i]
		if first == 0 {
			i++
			continue
		}
		n := uint32(0)
		for i < end && l.pfn[i] == first+n {
			l.pfn[i] = 0
			i, n = i+1, n+1
		}
		t.a.unref(first, n)
		dropped += int(n)
	}
	l.n -= dropped
	return dropped
}

// set puts pages at vpn, which takes over their references. What stood there is
// given up.
func (t *table) set(vpn uint64, e extent) {
	for i := range e.n {
		l := t.own(vpn)
		old := &l.pfn[vpn%hugePages]
		if *old != 0 {
			t.a.unref(*old, 1)
		} else {
			l.n++
			t.pages++
		}
		*old = e.pfn + i
		vpn++
	}
}

// replace puts pages at v, where others stand, and keeps those until dropStale.
func (t *table) replace(v uint64, e extent) {
	for i := range e.n {
		old := &t.own(v).pfn[v%hugePages]
		t.stale = append(t.stale, *old)
		*old = e.pfn + i
		v++
	}
}

func (t *table) dropStale() {
	for _, pfn := range t.stale {
		t.a.unref(pfn, 1)
	}
	t.stale = t.stale[:0]
}

// each calls f for the leaves that touch [vpn, end), in order, with the part of
// each that lies inside. f may delete the leaf.
func (t *table) each(vpn, end uint64, f func(key uint64, l *leaf, i, stop uint64)) {
	lo, hi := vpn/hugePages, (end+hugePages-1)/hugePages
	visit := func(key uint64) {
		if l := t.leaves[key]; l != nil {
			base := key * hugePages
			f(key, l, max(vpn, base)-base, min(end, base+hugePages)-base)
		}
	}
	if hi-lo <= uint64(len(t.leaves)) {
		for key := lo; key < hi; key++ {
			visit(key)
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(t.leaves)) {
		if key >= lo && key < hi {
			visit(key)
		}
	}
}

// drop gives up the pages in [vpn, end).
func (t *table) drop(vpn, end uint64) {
	t.each(vpn, end, func(key uint64, l *leaf, i, stop uint64) {
		if i == 0 && stop == hugePages {
			t.pages -= l.n
			delete(t.leaves, key)
			t.dropLeaf(l)
			return
		}
		l = t.own(key * hugePages)
		t.pages -= t.dropPages(l, i, stop)
		if l.n == 0 {
			delete(t.leaves, key)
			t.keep(l)
		}
	})
}

// has counts the pages present in [vpn, end).
func (t *table) has(vpn, end uint64) (n uint64) {
	t.each(vpn, end, func(_ uint64, l *leaf, i, stop uint64) {
		if stop-i == hugePages {
			n += uint64(l.n)
			return
		}
		for _, pfn := range l.pfn[i:stop] {
			if pfn != 0 {
				n++
			}
		}
	})
	return n
}

// exclusives counts the pages of [vpn, end) that are nobody else's.
func (t *table) exclusives(vpn, end uint64) (n uint64) {
	t.each(vpn, end, func(_ uint64, l *leaf, i, stop uint64) {
		if l.refs.Load() != 1 {
			return
		}
		for _, pfn := range l.pfn[i:stop] {
			if pfn != 0 && t.a.exclusive(pfn) {
				n++
			}
		}
	})
	return n
}

// take takes the pages of [vpn, end) out and gives their references to the caller.
func (t *table) take(vpn, end uint64) (out []extent) {
	t.each(vpn, end, func(key uint64, l *leaf, i, stop uint64) {
		for i < stop {
			e := t.run(key*hugePages+i, key*hugePages+stop, false)
			if e.n == 0 {
				i++
				continue
			}
			for k := range e.n {
				t.a.ref(e.pfn + k)
			}
			out = append(out, e)
			i += uint64(e.n)
		}
	})
	t.drop(vpn, end)
	return out
}

// move takes the pages of [vpn, end) out, with their references, and puts them at to.
func (t *table) move(vpn, end, to uint64) {
	type piece struct {
		at uint64
		e  extent
	}
	var pieces []piece
	for at := vpn; at < end; {
		if skip := t.holes(at, end); skip > 0 {
			at += skip
			continue
		}
		e := t.run(at, end, false)
		pieces = append(pieces, piece{at, e})
		for i := range e.n {
			t.a.ref(e.pfn + i)
		}
		at += uint64(e.n)
	}
	t.drop(vpn, end)
	for _, p := range pieces {
		t.set(p.at-vpn+to, p.e)
	}
}

// share makes c's pages those of t, for a fork.
func (t *table) share() table {
	c := table{a: t.a, leaves: maps.Clone(t.leaves), pages: t.pages, spares: t.spares}
	for _, l := range c.leaves {
		l.refs.Add(1)
	}
	return c
}

// clear gives up everything.
func (t *table) clear() {
	for _, l := range t.leaves {
		t.dropLeaf(l)
	}
	t.leaves, t.pages, t.spare = map[uint64]*leaf{}, 0, nil
}
