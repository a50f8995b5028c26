package memory

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// zeros are pages that read as zeros and are nobody's: they stand where a program
// looks at memory of its own that it never stored into, so that looking commits
// none (mm/memory.c, do_anonymous_page: the zero page). There is a huge page of
// them, so that a row is shown in one call. They are no pages of a space: its
// table has a hole there, and the first store finds that as any other.
//
// Nobody can store there, whatever rights a mistake of ours may give: the
// Sentry's own mapping is read-only, and the file is sealed against any other.
type zeros struct {
	fd   int
	mu   sync.Mutex
	host []byte // nil: not used yet
}

// newZeros makes the file of zeros.
func newZeros() (int, error) {
	fd, err := unix.MemfdCreate("bulkhead-zeros", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("memory: make a memfd of zeros: %w", err)
	}
	if err := unix.Ftruncate(fd, hugeSize); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("memory: make a memfd of zeros: %w", err)
	}
	// F_SEAL_WRITE would refuse shared mappings to read, too, before Linux 6.7.
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("memory: seal a memfd of zeros: %w", err)
	}
	return fd, nil
}

// zeroes are n zero pages at most, to stand at page number v and on. They begin
// where v does in its huge page, so that the platform may show a huge one.
func (a *Arena) zeroes(v, n uint64) (platform.Segment, error) {
	z := &a.zeros
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.host == nil {
		a.mu.Lock()
		pfn, err := a.windows.takeClean(hugePages)
		a.mu.Unlock()
		if err != nil {
			return platform.Segment{}, err
		}
		b := a.windows.bytes(pfn, hugePages)
		if err := place(b, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_NORESERVE, z.fd, 0); err != nil {
			return platform.Segment{}, err // the address space is lost, and nothing more
		}
		z.host = b
	}
	i := v % hugePages
	end := min(i+n, hugePages)
	b := z.host[i*PageSize : end*PageSize : end*PageSize]
	return platform.Segment{FD: z.fd, Offset: int64(i * PageSize), Host: b}, nil
}

// showZeros shows zeros in the hole around v, which a program looks at, and says
// whether it did. Where little is missing the pages are made instead: they will
// be stored into soon, and each fault is dear.
func (s *Space) showZeros(ar *area, v uint64) bool {
	least := s.tuning().zeros
	if ar.obj != nil || ar.is(locked|growsDown) || ar.size() < least*PageSize {
		return false
	}
	lo := max(vpn(ar.start), v&^(hugePages-1))
	hi := min(vpn(ar.end), (v|(hugePages-1))+1)
	lo = s.holeStart(v, lo)
	hi = v + s.table.holes(v, hi)
	if hi-lo < min(least, hugePages)/4 {
		return false
	}
	seg, err := s.a.zeroes(lo, hi-lo)
	if err != nil {
		return false
	}
	ar.zeros = true
	return s.show(ar, lo, seg, ar.prot&^platform.Write) == nil
}

// viewZeros shows at, and what follows within most bytes and a huge page, if it
// lies in a hole of anonymous memory that allows access. Space.mu is held.
func (s *Space) viewZeros(at Addr, most uint64, access platform.Access) ([]byte, bool) {
	ar := s.find(at)
	if ar == nil || ar.obj != nil || ar.faults != nil || !ar.allows(access) {
		return nil, false
	}
	most = min(most, uint64(ar.end-at))
	in, v := uint64(at)%PageSize, vpn(at)
	n := s.table.holes(v, v+(in+most+PageSize-1)/PageSize)
	if n == 0 {
		return nil, false
	}
	seg, err := s.a.zeroes(v, n)
	if err != nil {
		return nil, false
	}
	b := seg.Host[in:]
	return b[:min(uint64(len(b)), most)], true
}
