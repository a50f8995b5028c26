package ptrace

import (
	"slices"
	"sort"

	"bulkhead/sentry/platform"
)

// region is a run of pages as they should be mapped, and what of it the stub
// process has already.
type region struct {
	start, end platform.Addr
	fd         int
	offset     int64 // bytes in fd, at start
	access     platform.Access

	shown bool            // the stub process maps this
	has   platform.Access // with this access, if shown
}

func (r region) settled() bool { return r.shown && r.has == r.access }

// continues says that r and the one behind it are one mapping.
func (r region) continues(n region) bool {
	return r.end == n.start && r.sameFile(n.start, n.fd, n.offset) &&
		r.access == n.access && r.shown == n.shown && r.has == n.has
}

// sameFile says that r, prolonged to at, would show offset of fd there.
func (r region) sameFile(at platform.Addr, fd int, offset int64) bool {
	return r.fd == fd && r.offset+int64(at-r.start) == offset
}

// span is a range of addresses.
type span struct{ start, end platform.Addr }

// regions is what an address space should look like: sorted, without overlap.
type regions []region

// find is the index of the first region that ends behind at.
func (rs regions) find(at platform.Addr) int {
	return sort.Search(len(rs), func(i int) bool { return rs[i].end > at })
}

// at is the region that holds an address.
func (rs regions) at(a platform.Addr) (region, bool) {
	if i := rs.find(a); i < len(rs) && rs[i].start <= a {
		return rs[i], true
	}
	return region{}, false
}

// split makes at a border.
func (rs *regions) split(at platform.Addr) {
	i := rs.find(at)
	if i == len(*rs) || (*rs)[i].start >= at {
		return
	}
	low, high := (*rs)[i], (*rs)[i]
	low.end, high.start = at, at
	high.offset += int64(at - low.start)
	(*rs)[i] = low
	*rs = slices.Insert(*rs, i+1, high)
}

// cut makes the ends of s borders and returns the indices of what is within.
func (rs *regions) cut(s span) (lo, hi int) {
	rs.split(s.start)
	rs.split(s.end)
	lo = rs.find(s.start)
	for hi = lo; hi < len(*rs) && (*rs)[hi].start < s.end; hi++ {
	}
	return lo, hi
}

// replace puts one region, or none, in the place of [lo, hi).
func (rs *regions) replace(lo, hi int, with ...region) {
	*rs = slices.Replace(*rs, lo, hi, with...)
	rs.join(lo-1, lo+len(with))
}

// join merges what has become one mapping among [lo, hi] and its neighbours.
func (rs *regions) join(lo, hi int) {
	for i := min(hi, len(*rs)-2); i >= max(lo, 0); i-- {
		if (*rs)[i].continues((*rs)[i+1]) {
			(*rs)[i].end = (*rs)[i+1].end
			*rs = slices.Delete(*rs, i+1, i+2)
		}
	}
}

// add joins s to a list of spans if it touches the last one.
func addSpan(list []span, s span) []span {
	if n := len(list); n > 0 {
		if last := &list[n-1]; s.start <= last.end && last.start <= s.end {
			last.start, last.end = min(last.start, s.start), max(last.end, s.end)
			return list
		}
	}
	return append(list, s)
}
