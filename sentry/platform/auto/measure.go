package auto

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// The measured program: two loops.
var (
	callLoop = []byte{
		0xb8, 0x27, 0x00, 0x00, 0x00, // mov $39,%eax (getpid)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to the mov
	}
	faultLoop = []byte{
		0x48, 0x89, 0x07, // mov %rax,(%rdi)
		0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add $4096,%rdi
		0xeb, 0xf4, // jmp to the mov
	}
)

// Where it lies, and what it needs.
const (
	textAt  platform.Addr = 0x40_0000
	areaAt  platform.Addr = 0x80_0000 // trampolines, if the platform patches
	touchAt platform.Addr = 0x2000_0000

	callOff  = 0x40 // in the text; no patcher looks across the start of a page
	faultOff = 0x800

	areaPages  = 32
	touchPages = 16
	allPages   = 1 + areaPages + touchPages

	rx = platform.Read | platform.Exec
	rw = platform.Read | platform.Write
)

// Samples are taken until there are many, or a few and it took long enough. The
// lower quartile of the second half counts: the platform has got used to it then,
// and what is slower was somebody else's turn on the CPU.
const (
	fewSamples  = 16
	manySamples = 200
	longEnough  = 500 * time.Microsecond
)

// bench is the program on a platform.
type bench struct {
	p      platform.Platform
	fd     int // of region, or -1
	region []byte
}

// measure fills in the three costs.
func (c *Cost) measure(p platform.Platform) (err error) {
	b := &bench{p: p, fd: -1}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.reserve(); err != nil {
		return err
	}
	as, err := b.space()
	if err != nil {
		return err
	}
	defer as.Release()
	th, err := p.NewThread()
	if err != nil {
		return fmt.Errorf("measure %s: new thread: %w", p.Name(), err)
	}
	defer th.Close()
	if c.Trapped, err = calls(th, as); err != nil {
		return err
	}
	if c.Fault, err = b.faults(th, as); err != nil {
		return err
	}
	c.Patched = c.Trapped
	patching, err := b.space()
	if err != nil {
		return err
	}
	defer patching.Release()
	if able, ok := patching.(platform.Patchable); ok {
		able.SetPatcher(&patcher{b, patching})
		c.Patched, err = calls(th, patching)
	}
	return err
}

// reserve gives the platform some memory. A platform with private memory keeps
// these few pages for good: what it was told of must stay.
func (b *bench) reserve() (err error) {
	const size = allPages * platform.PageSize
	flags := unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if !b.p.Private() {
		if b.fd, err = unix.MemfdCreate("measure", unix.MFD_CLOEXEC); err != nil {
			return fmt.Errorf("measure %s: memfd: %w", b.p.Name(), err)
		}
		if err = unix.Ftruncate(b.fd, size); err != nil {
			return fmt.Errorf("measure %s: size of memfd: %w", b.p.Name(), err)
		}
		flags = unix.MAP_SHARED
	}
	if b.region, err = unix.Mmap(b.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags); err != nil {
		return fmt.Errorf("measure %s: map %d bytes: %w", b.p.Name(), size, err)
	}
	copy(b.region[callOff:], callLoop)
	copy(b.region[faultOff:], faultLoop)
	return b.p.AddMemory(b.region)
}

func (b *bench) close() error {
	if b.fd < 0 {
		return nil
	}
	err := unix.Close(b.fd)
	if b.region != nil {
		err = errors.Join(err, unix.Munmap(b.region))
	}
	return err
}

func (b *bench) pages(first, n int) platform.Segment {
	from, to := first*platform.PageSize, (first+n)*platform.PageSize
	return platform.Segment{FD: b.fd, Offset: int64(from), Host: b.region[from:to:to]}
}

func (b *bench) space() (platform.AddressSpace, error) {
	as, err := b.p.NewAddressSpace()
	if err != nil {
		return nil, fmt.Errorf("measure %s: new address space: %w", b.p.Name(), err)
	}
	if err := as.Map(textAt, b.pages(0, 1), rx); err != nil {
		as.Release()
		return nil, fmt.Errorf("measure %s: map its program: %w", b.p.Name(), err)
	}
	return as, nil
}

// start is the context of a thread at off in the text.
func start(off uint64) *platform.Context {
	c := &platform.Context{Dirty: platform.DirtyAll}
	c.Rip, c.Rdi, c.Eflags, c.Cs, c.Ss = uint64(textAt)+off, uint64(touchAt), 0x202, 0x33, 0x2b
	return c
}

// calls measures system calls.
func calls(th platform.Thread, as platform.AddressSpace) (time.Duration, error) {
	c := start(callOff)
	return sample(func() error {
		e, err := th.Run(c, as)
		if err == nil && (e.Reason != platform.Syscall || c.Orig_rax != unix.SYS_GETPID) {
			err = fmt.Errorf("measure calls: got event %+v, call %d, at %#x", e, int64(c.Orig_rax), c.Rip)
		}
		c.Rax = 1
		return err
	})
}

// faults measures faults, each answered by a page.
func (b *bench) faults(th platform.Thread, as platform.AddressSpace) (time.Duration, error) {
	c := start(faultOff)
	n := 0
	return sample(func() error {
		e, err := th.Run(c, as)
		if err != nil {
			return err
		}
		at := touchAt + platform.Addr(n*platform.PageSize)
		if e.Reason != platform.Fault || e.Addr != at {
			return fmt.Errorf("measure faults: got event %+v at %#x, want a fault at %#x", e, c.Rip, uint64(at))
		}
		n++
		return as.Map(at, b.pages(1+areaPages+n%touchPages, 1), rw)
	})
}

// sample is how long f takes.
func sample(f func() error) (time.Duration, error) {
	var took []time.Duration
	begin := time.Now()
	for last := begin; len(took) < manySamples && (len(took) < fewSamples || last.Sub(begin) < longEnough); {
		if err := f(); err != nil {
			return 0, err
		}
		now := time.Now()
		took = append(took, now.Sub(last))
		last = now
	}
	late := took[len(took)/2:]
	slices.Sort(late)
	return late[len(late)/4], nil
}

// patcher implements platform.Patcher for a program of one thread.
type patcher struct {
	b  *bench
	as platform.AddressSpace
}

func (p *patcher) PatchText(at platform.Addr, old, new []byte) error {
	text := p.b.region[:platform.PageSize]
	if at < textAt || at-textAt > platform.Addr(len(text)-len(new)) || len(old) != len(new) {
		return unix.EFAULT
	}
	there := text[at-textAt:][:len(new)]
	if !bytes.Equal(there, old) {
		return unix.EAGAIN
	}
	copy(there, new)
	return nil
}

func (p *patcher) TrampolineArea(_ platform.Addr, size uint64) (platform.Addr, error) {
	if size > areaPages*platform.PageSize {
		return 0, unix.ENOMEM
	}
	n := int((size + platform.PageSize - 1) / platform.PageSize)
	return areaAt, p.as.Map(areaAt, p.b.pages(1, n), rx)
}
