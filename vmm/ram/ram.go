// Package ram is a guest's memory: where it lies in the guest's address space,
// and the host mapping behind it. It implements virtio.Memory. It knows KVM's
// addresses and no KVM: the machine makes slots of its regions.
package ram

import (
	"errors"
	"fmt"
	"iter"
	"os"

	"bulkhead/kvm"
	"bulkhead/virtio"

	"golang.org/x/sys/unix"
)

// The hole below 4 GiB belongs to devices: virtio windows, the IOAPIC, local
// APICs, and the pages that Intel hosts want for real mode.
const (
	HoleStart = 3 << 30
	HoleEnd   = 4 << 30
)

// Limits of a guest's memory. Less than the least holds no kernel; the most is
// what fits under 40 bits of address, which every KVM host has.
const (
	Least = 16 << 20
	Most  = 512 << 30
)

// huge is the page of MFD_HUGE_2MB.
const huge = 2 << 20

// Backing is what lies behind the memory. Anonymous memory is the cheapest: to
// load a kernel of 10 MB takes 3 ms and not 8, and the guest faults in 2 MiB at a
// time, where hosts leave shared memory's huge pages off (kvm-hosts.md). Memfd is
// for memory that another process is to map.
type Backing string

const (
	Memfd     Backing = "memfd"     // shared memory, pages as they are touched
	Anonymous Backing = "anonymous" // private, with transparent huge pages where the host has them
	HugeTLB   Backing = "hugetlb"   // 2 MiB pages that the administrator set aside
	file      Backing = "file"      // a snapshot, mapped privately
)

// Backings are those that New takes.
var Backings = []Backing{Memfd, Anonymous, HugeTLB}

// Region is memory that lies together.
type Region struct {
	At   kvm.GPA
	Host []byte
}

// Memory is a guest's RAM.
type Memory struct {
	backing Backing
	fd      int    // of a memfd, else -1
	mapped  []byte // as mmap gave it
	host    []byte // all of the guest's, the low region first
	regions []Region
}

// New makes size bytes of zeroed memory.
func New(size uint64, b Backing) (*Memory, error) {
	if err := Check(size); err != nil {
		return nil, err
	}
	mapped, fd, err := allocate(int(size), b)
	if err != nil {
		return nil, fmt.Errorf("ram: %d MiB of %s memory: %w", size>>20, b, err)
	}
	return place(mapped, int(size), fd, b), nil
}

// Check says whether a guest can have size bytes.
func Check(size uint64) error {
	switch {
	case size < Least || size > Most:
		return fmt.Errorf("ram: a guest has %d MiB to %d GiB of memory, not %s", Least>>20, Most>>30, words(size))
	case size%huge != 0:
		return fmt.Errorf("ram: %d bytes of memory are not a multiple of 2 MiB", size)
	}
	return nil
}

func words(size uint64) string {
	if size >= 1<<30 {
		return fmt.Sprintf("%d GiB", size>>30)
	}
	if size >= 1<<20 {
		return fmt.Sprintf("%d MiB", size>>20)
	}
	return fmt.Sprintf("%d bytes", size)
}

// Map makes size bytes of memory that are the bytes of f from offset at, read
// when the guest first touches them; what the guest writes stays with it. Holes of
// the file are memory like any other: through the file each of their pages would be
// there twice, once for the file and once for the guest that writes to it.
func Map(f *os.File, at int64, size uint64) (*Memory, error) {
	if err := Check(size); err != nil {
		return nil, err
	}
	mapped, _, err := allocate(int(size), Anonymous)
	if err != nil {
		return nil, fmt.Errorf("ram: %d MiB for %s: %w", size>>20, f.Name(), err)
	}
	m := place(mapped, int(size), -1, file)
	for from, to := range extents(int(f.Fd()), at, at+int64(size)) {
		if err := overlay(m.host[from-at:to-at], int(f.Fd()), from); err != nil {
			return nil, errors.Join(fmt.Errorf("ram: map %d MiB of %s: %w", size>>20, f.Name(), err), m.Close())
		}
	}
	return m, nil
}

// shortHole is what is no hole: each costs a mapping, of which a process has some 65,000.
const shortHole = 256 << 10 // bytes

// extents are the parts of a file from begin to end that have data, in whole pages.
func extents(fd int, begin, end int64) iter.Seq2[int64, int64] {
	return func(yield func(from, to int64) bool) {
		next := func(at int64) (from, to int64) { // behind at
			from, err := unix.Seek(fd, at, unix.SEEK_DATA)
			if err == unix.ENXIO || from >= end { // the rest is a hole
				return end, end
			}
			if err == nil {
				to, err = unix.Seek(fd, from, unix.SEEK_HOLE)
			}
			if err != nil { // a file system that does not tell
				return at, end
			}
			return from &^ (kvm.PageSize - 1), min((to+kvm.PageSize-1)&^(kvm.PageSize-1), end)
		}
		for from, to := next(begin); from < end; {
			more, until := next(to)
			if more < end && more-to < shortHole {
				to = until
				continue
			}
			if !yield(from, to) {
				return
			}
			from, to = more, until
		}
	}
}

// allocate maps the memory. Anonymous memory has room to begin at a multiple of a
// huge page, as the guest's does: KVM maps no huge page that lies across two of the
// host's, and mmap sees to it since Linux 6.7 only. On 6.1 a guest had 5,700 nested
// faults to its init without that, and under QEMU, which aligns, 560 (test/lab, -only boot -exits).
func allocate(size int, b Backing) (host []byte, fd int, err error) {
	switch b {
	case Anonymous:
		host, err = unix.Mmap(-1, 0, size+huge, access, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err == nil {
			// A host without transparent huge pages refuses, and has small ones.
			_ = unix.Madvise(host, unix.MADV_HUGEPAGE)
		}
		return host, -1, err
	case HugeTLB:
		host, fd, err = allocateFile(size, unix.MFD_HUGETLB|unix.MFD_HUGE_2MB)
		if errors.Is(err, unix.ENOMEM) {
			err = fmt.Errorf("the host has too few huge pages free; sysctl vm.nr_hugepages=%d adds as many: %w", size/huge, err)
		}
		return host, fd, err
	case Memfd:
		return allocateFile(size, 0)
	}
	return nil, -1, fmt.Errorf("no such backing; there are %v", Backings)
}

const access = unix.PROT_READ | unix.PROT_WRITE

func allocateFile(size, flags int) (host []byte, fd int, err error) {
	if fd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC|flags); err != nil {
		return nil, -1, err
	}
	if err = unix.Ftruncate(fd, int64(size)); err == nil {
		// Without MAP_NORESERVE huge pages are set aside here, and not missed later by a SIGBUS.
		host, err = unix.Mmap(fd, 0, size, access, unix.MAP_SHARED)
	}
	if err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	return host, fd, nil
}

func place(mapped []byte, size, fd int, b Backing) *Memory {
	host := mapped
	if b == Anonymous || b == file {
		at := ahead(mapped, huge)
		host = mapped[at : at+size : at+size]
	}
	low := min(len(host), HoleStart)
	m := &Memory{backing: b, fd: fd, mapped: mapped, host: host, regions: []Region{{0, host[:low:low]}}}
	if len(host) > low {
		m.regions = append(m.regions, Region{HoleEnd, host[low:]})
	}
	// A core file of the VMM is no place for a guest's secrets and gigabytes.
	_ = unix.Madvise(host, unix.MADV_DONTDUMP)
	return m
}

// Used yields the ranges of Bytes that may hold something else than zeroes. To look
// at the others would make pages of them, where they are a file's.
func (m *Memory) Used() iter.Seq2[int, int] {
	return func(yield func(from, to int) bool) {
		if m.backing != Memfd {
			yield(0, len(m.host))
			return
		}
		for to := int64(0); ; {
			from, err := unix.Seek(m.fd, to, unix.SEEK_DATA)
			if err != nil { // ENXIO: the rest is a hole
				return
			}
			if to, err = unix.Seek(m.fd, from, unix.SEEK_HOLE); err != nil || !yield(int(from), int(to)) {
				return
			}
		}
	}
}

// Size is how many bytes the guest has.
func (m *Memory) Size() uint64 { return uint64(len(m.host)) }

// Regions are the pieces, in the order of their addresses.
func (m *Memory) Regions() []Region { return m.regions }

// Bytes is all of it, region after region, as a snapshot keeps it.
func (m *Memory) Bytes() []byte { return m.host }

// Slice is the n bytes at addr (virtio.Memory).
func (m *Memory) Slice(addr virtio.Addr, n uint64) ([]byte, error) {
	for _, r := range m.regions {
		at := uint64(addr) - uint64(r.At) // wraps to a large number below the region
		if size := uint64(len(r.Host)); at < size && n <= size-at {
			return r.Host[at : at+n : at+n], nil
		}
	}
	return nil, fmt.Errorf("ram: no %d bytes of memory at %#x", n, uint64(addr))
}

// Offset is where in Bytes b lies, which is a slice of it; ok is false for any other.
func (m *Memory) Offset(b []byte) (at uint64, ok bool) { return offset(m.host, b) }

// File is the memfd behind Bytes, byte for byte, or a negative number where the
// memory is no other process's to map. It stays the memory's.
func (m *Memory) File() int { return m.fd }

// Release gives back to the host those pages that lie wholly within b, a slice of
// the guest's memory; they read 0 when the guest comes to them again.
func (m *Memory) Release(b []byte) error {
	page := uint64(kvm.PageSize)
	if m.backing == HugeTLB {
		page = huge
	}
	at, ok := offset(m.host, b)
	if !ok {
		return fmt.Errorf("ram: release %d bytes that are not the guest's", len(b))
	}
	from, to := (at+page-1)/page*page, (at+uint64(len(b)))/page*page
	if from >= to {
		return nil
	}
	whole := m.host[from:to]
	var err error
	switch m.backing {
	case Memfd, HugeTLB:
		err = unix.Madvise(whole, unix.MADV_REMOVE)
	case Anonymous:
		err = unix.Madvise(whole, unix.MADV_DONTNEED)
	case file:
		err = replace(whole)
	}
	if err != nil {
		return fmt.Errorf("ram: release %d bytes of %s memory: %w", len(whole), m.backing, err)
	}
	return nil
}

// Populate makes the pages of Bytes from an offset to another, which the guest will write
// to, as if it had (madvise(2), MADV_POPULATE_WRITE, Linux 5.14).
func (m *Memory) Populate(from, to uint64) error {
	if from > to || to > m.Size() {
		return fmt.Errorf("ram: populate %d to %d of %d bytes", from, to, m.Size())
	}
	return os.NewSyscallError("madvise", unix.Madvise(m.host[from:to], unix.MADV_POPULATE_WRITE))
}

// Close unmaps the memory. No vCPU and no device may run any more.
func (m *Memory) Close() error {
	if m.host == nil {
		return nil
	}
	err := os.NewSyscallError("munmap of guest memory", unix.Munmap(m.mapped))
	m.mapped, m.host, m.regions = nil, nil, nil
	if m.fd >= 0 {
		err = errors.Join(err, os.NewSyscallError("close memfd", unix.Close(m.fd)))
	}
	return err
}
