package virtiotest

import (
	"fmt"
	"math/bits"
	"sync"

	"bulkhead/virtio"
)

// Memory is guest RAM from address 0, of Go's making. Address 0 itself is never
// given out by Alloc.
type Memory struct {
	ram []byte

	mu   sync.Mutex
	top  uint64
	free [48][]virtio.Addr // by the logarithm of the size
}

const page = 4096

// NewMemory is size bytes of RAM, rounded up to pages.
func NewMemory(size int) *Memory {
	return &Memory{ram: make([]byte, (size+page-1)/page*page), top: page}
}

// Slice implements virtio.Memory.
func (m *Memory) Slice(addr virtio.Addr, n uint64) ([]byte, error) {
	size := uint64(len(m.ram))
	if n > size || uint64(addr) > size-n {
		return nil, fmt.Errorf("guest memory: %d bytes at %#x are not RAM", n, uint64(addr))
	}
	return m.ram[addr:][:n:n], nil
}

// Size is how much RAM there is, in bytes.
func (m *Memory) Size() int { return len(m.ram) }

// Alloc is a place for n bytes, aligned to a power of two that is not less, up
// to a page. It panics when there is no more.
func (m *Memory) Alloc(n int) virtio.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	class := sizeClass(n)
	if list := m.free[class]; len(list) > 0 {
		m.free[class] = list[:len(list)-1]
		return list[len(list)-1]
	}
	size := uint64(1) << class
	align := min(size, page)
	at := (m.top + align - 1) &^ (align - 1)
	if at+size > uint64(len(m.ram)) {
		panic(fmt.Sprintf("virtiotest: no room for %d bytes in %d of guest memory", n, len(m.ram)))
	}
	m.top = at + size
	return virtio.Addr(at)
}

// Free takes back what Alloc(n) gave.
func (m *Memory) Free(at virtio.Addr, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	class := sizeClass(n)
	m.free[class] = append(m.free[class], at)
}

// Reset takes back all that Alloc gave.
func (m *Memory) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.top = page
	m.free = [48][]virtio.Addr{}
}

// Bytes is Slice where it cannot fail.
func (m *Memory) Bytes(at virtio.Addr, n int) []byte {
	b, err := m.Slice(at, uint64(n))
	if err != nil {
		panic(err)
	}
	return b
}

func sizeClass(n int) int { return max(4, bits.Len(uint(max(n, 1)-1))) }
