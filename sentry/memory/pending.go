package memory

import "bulkhead/sentry/platform"

// eagerness is how much of a new area is mapped at once.
type eagerness uint8

const (
	some  eagerness = iota // as Space.tuning says
	all                    // MAP_POPULATE, mlock
	later                  // at the next call that is not part of the same purpose
)

// pending is a library that its loader is about to cut up: ld.so maps all of it
// to be read, and then its segments over that, one by one. What would be shown
// between would be taken away at once, which on kvm is dear.
type pending struct{ start, end Addr }

// eagernessOf looks at a map before it is made.
func eagernessOf(r MapRequest) eagerness {
	switch {
	case r.Populate || r.Locked:
		return all
	case !r.Fixed && !r.Shared && r.Prot == platform.Read && isProgram(r.Object):
		return later
	}
	return some
}

// settle shows what is left of a library, unless the map of [at, …) goes on
// cutting it up.
func (s *Space) settle(fixed bool, at Addr) {
	p := s.pending
	if p.end == 0 || fixed && at >= p.start && at < p.end {
		return
	}
	s.pending = pending{}
	if ar := s.find(p.start); ar != nil && ar.start == p.start && ar.obj != nil && !ar.mapped {
		s.eager(ar, some)
	}
}
