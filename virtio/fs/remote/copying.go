package remote

import (
	"fmt"
	"sync"
)

// slotSize has room for the largest request that a driver makes: 1 MiB of data
// (virtio/fs, maxIO), with headers.
const slotSize = 1<<20 + 64<<10 // bytes

// Copying implements fs.Server by a Client whose memory is not the guest's: where
// that is private to one process, as a snapshot's is, requests and answers are
// copied to a window that the two have in common, and back.
type Copying struct {
	client *Client
	room   chan struct{} // one for each slot
	mu     sync.Mutex
	slots  [][]byte // those that are free; the last used is the next, so that few are ever touched
}

// NewCopying cuts window, the memory of c, into as many slots as it has room for:
// so many requests are under way at one time.
func NewCopying(c *Client, window []byte) (*Copying, error) {
	n := len(window) / slotSize
	if n == 0 {
		return nil, fmt.Errorf("fs: a window of %d bytes has no room for a request, which takes %d", len(window), slotSize)
	}
	s := &Copying{client: c, room: make(chan struct{}, n)}
	for i := range n {
		s.slots = append(s.slots, window[i*slotSize:(i+1)*slotSize:(i+1)*slotSize])
	}
	return s, nil
}

// Handle implements fs.Server.
func (s *Copying) Handle(in, out [][]byte) (int, error) {
	asked, room := total(in), total(out)
	if asked+room > slotSize {
		return 0, fmt.Errorf("fs: a request of %d bytes with room for %d; the most in all is %d", asked, room, slotSize)
	}
	slot := s.take()
	defer s.put(slot)
	request := slot[:0]
	for _, part := range in {
		request = append(request, part...)
	}
	answer := slot[asked : asked+room]
	n, err := s.client.Handle([][]byte{request}, [][]byte{answer})
	if err != nil {
		return 0, err
	}
	for rest := answer[:n]; len(rest) > 0; out = out[1:] {
		rest = rest[copy(out[0], rest):]
	}
	return n, nil
}

// Forget implements fs.Server.
func (s *Copying) Forget() { s.client.Forget() }

func (s *Copying) take() []byte {
	s.room <- struct{}{}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.slots) - 1
	slot := s.slots[last]
	s.slots = s.slots[:last]
	return slot
}

func (s *Copying) put(slot []byte) {
	s.mu.Lock()
	s.slots = append(s.slots, slot)
	s.mu.Unlock()
	<-s.room
}

func total(parts [][]byte) (n int) {
	for _, p := range parts {
		n += len(p) // a chain has less than 4 GiB (virtio)
	}
	return n
}
