package memory

// Shared is an object that the Sentry reads and writes word by word while
// applications that map it do the same: a ring of requests. All of it is in
// memory until Close, and stays for who maps it.
type Shared struct {
	*Object
	pages [][]byte
	runs  []Run
}

// NewShared makes one of size bytes, in whole pages, zero.
func NewShared(a *Arena, size uint64) (*Shared, error) {
	size = pageUp(size)
	s := &Shared{Object: NewObject(a)}
	if err := s.Object.Truncate(size); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.Object.Allocate(0, size, func() bool { return false }); err != nil {
		s.Close()
		return nil, err
	}
	for off := uint64(0); off < size; {
		r, err := s.Object.Pages(off, size-off, true)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.runs = append(s.runs, r)
		for b := r.Host; len(b) > 0; b = b[PageSize:] {
			s.pages = append(s.pages, b[:PageSize:PageSize])
			off += PageSize
		}
	}
	return s, nil
}

// Close gives the Sentry's part up. Nothing else of Shared is called after it.
func (s *Shared) Close() {
	for _, r := range s.runs {
		r.Release()
	}
	s.runs, s.pages = nil, nil
	s.Object.Unref()
}

// Load and Store access the aligned word at off at once, in order with what the
// application does (Go's atomics).
func (s *Shared) Load(off uint32) uint32 {
	return word(s.pages[off/PageSize][off%PageSize:][:4]).Load()
}

func (s *Shared) Store(off, v uint32) { word(s.pages[off/PageSize][off%PageSize:][:4]).Store(v) }

// ReadBytes and WriteBytes copy within one page.
func (s *Shared) ReadBytes(off uint32, p []byte) { copy(p, s.pages[off/PageSize][off%PageSize:]) }

func (s *Shared) WriteBytes(off uint32, p []byte) { copy(s.pages[off/PageSize][off%PageSize:], p) }
