// Package ring0 finds out whether this host runs a guest's ring 0 on the
// processor or in KVM's emulator. A Linux guest needs the former: the emulator
// is a thousand times slower and lacks instructions that every kernel uses.
//
// Hosts are told apart by doing, because a host that emulates advertises the same
// capabilities (shared design: kvm-hosts.md). A guest of a hundred bytes times a
// short loop by its own TSC and then executes POPCNT, which the emulator does
// not know (arch/x86/kvm/emulate.c, twobyte_table). Both must speak for the
// processor.
package ring0

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/kvm"
)

// slow separates the two: a processor takes a few cycles for an instruction of
// the loop, QEMU's translator five, KVM's emulator 1,400 (kvm-hosts.md).
const slow = 100 // TSC cycles an instruction

// patience ends a guest that does neither; it takes 0.3 ms where all is slow. It is time of a
// processor: on a host with much to do a second passed before the guest had run at all.
// starved is the clock's.
const (
	patience = time.Second
	starved  = time.Minute
)

// Pages of the guest, which sees its memory one to one.
const (
	pml4, pdpt, pd = 0x1000, 0x2000, 0x3000
	stampsAt       = 0x4000
	codeAt         = 0x5000
	size           = 0x6000
)

const (
	rounds       = 4
	iterations   = 32
	instructions = 2 * iterations // in the loop
	donePort     = 0x42
)

// code takes three stamps a round: before nothing, before the loop, after it. What
// reading the TSC costs, a trap in some nested machines, is in both differences.
var code = []byte{
	0xbf, stampsAt & 0xff, stampsAt >> 8, 0, 0, // mov edi,stampsAt
	0xbb, rounds, 0, 0, 0, // mov ebx,rounds
	// round:
	0x0f, 0x31, 0x89, 0x07, 0x89, 0x57, 0x04, // rdtsc; mov [rdi],eax; mov [rdi+4],edx
	0x0f, 0x31, 0x89, 0x47, 0x08, 0x89, 0x57, 0x0c, // rdtsc; mov [rdi+8],eax; mov [rdi+12],edx
	0xb9, iterations, 0, 0, 0, // mov ecx,iterations
	0xff, 0xc9, // loop: dec ecx
	0x75, 0xfc, // jnz loop
	0x0f, 0x31, 0x89, 0x47, 0x10, 0x89, 0x57, 0x14, // rdtsc; mov [rdi+16],eax; mov [rdi+20],edx
	0x83, 0xc7, 24, // add edi,24
	0xff, 0xcb, // dec ebx
	0x75, 0xd9, // jnz round
	0xf3, 0x0f, 0xb8, 0xc1, // popcnt eax,ecx
	0xe6, donePort, // out donePort,al
}

// Native tells whether a guest's ring 0 runs on the processor, and in a few words
// why it says so. It takes a machine of its own and less than 3 ms.
func Native(sys *kvm.System) (native bool, reason string, err error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false, "", fmt.Errorf("ring0: map %d bytes: %w", size, err)
	}
	defer unix.Munmap(mem)
	vm, err := newVM(sys)
	if err != nil {
		return false, "", err
	}
	defer vm.Close()
	c, err := load(vm, mem)
	if err != nil {
		return false, "", err
	}
	defer c.Close()
	exit, err := run(c)
	if err != nil {
		return false, "", err
	}
	return judge(exit, c, fastest(mem[stampsAt:]))
}

// newVM asks again where a signal came between, as Go's runtime sends them:
// mm/mmap.c, mm_take_all_locks gives up for one.
func newVM(sys *kvm.System) (*kvm.VM, error) {
	for {
		vm, err := sys.NewVM()
		if !errors.Is(err, unix.EINTR) {
			return vm, err
		}
	}
}

// judge reads what the guest left.
func judge(exit kvm.Exit, c *kvm.VCPU, cycles uint64) (bool, string, error) {
	switch {
	case exit == kvm.ExitInternalError && c.InternalError().Suberror == 1:
		return false, fmt.Sprintf("ring 0 is emulated: %d cycles an instruction, and popcnt fails", cycles), nil
	case exit != kvm.ExitIO || c.IO().Port != donePort:
		return false, "", fmt.Errorf("ring0: a guest of %d bytes ended with %v", len(code), exit)
	case cycles > slow:
		return false, fmt.Sprintf("ring 0 is emulated: %d cycles an instruction", cycles), nil
	}
	return true, fmt.Sprintf("ring 0 is native: %d cycles an instruction", cycles), nil
}

// fastest is the least that an instruction of the loop took: a host may take the
// processor away for a while, it never lends a faster one.
func fastest(stamps []byte) uint64 {
	least := ^uint64(0)
	for i := range rounds {
		var at [3]uint64
		for j := range at {
			at[j] = binary.LittleEndian.Uint64(stamps[8*(3*i+j):])
		}
		nothing, loop := at[1]-at[0], at[2]-at[1]
		if loop < nothing { // interrupted between the first two stamps
			continue
		}
		least = min(least, (loop-nothing)/instructions)
	}
	return least
}

// load fills the guest's memory and puts its one CPU into 64-bit mode, ring 0.
// It needs no IDT: it makes no fault that could be handled.
func load(vm *kvm.VM, mem []byte) (c *kvm.VCPU, err error) {
	for at, entry := range map[int]uint64{pml4: pdpt | 3, pdpt: pd | 3, pd: 0x83} {
		binary.LittleEndian.PutUint64(mem[at:], entry)
	}
	copy(mem[codeAt:], code)
	if err := vm.SetTSSAddr(0xfffb_d000); err != nil {
		return nil, err
	}
	if err := vm.SetMemory(0, 0, mem, 0); err != nil {
		return nil, err
	}
	if c, err = vm.NewVCPU(0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	s, err := c.Sregs()
	if err != nil {
		return nil, err
	}
	s.CR0, s.CR3, s.CR4, s.EFER = 0x8005_0033, pml4, 0x620, 0x500
	s.CS = kvm.Segment{Limit: ^uint32(0), Selector: 0x10, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: ^uint32(0), Selector: 0x18, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	if err := c.SetSregs(&s); err != nil {
		return nil, err
	}
	return c, c.SetRegs(&kvm.Regs{RIP: codeAt, RFLAGS: 0x202}) // interrupts on: none comes, and every host can kick it
}

// run goes on over the signals of Go's runtime until the guest exits by itself
// or patience ends.
func run(c *kvm.VCPU) (kvm.Exit, error) {
	runtime.LockOSThread() // whose time it is
	defer runtime.UnlockOSThread()
	defer wake(c, patience)()
	return runFor(c.Run, threadTime)
}

// runFor calls again what was interrupted, until it has had patience's time of a processor. One
// that gets none, on a host with more to do than it can, has more of the clock's.
func runFor(again func() (kvm.Exit, error), worked func() time.Duration) (kvm.Exit, error) {
	before, began := worked(), time.Now()
	for {
		exit, err := again()
		if err != nil || exit != kvm.ExitInterrupted {
			return exit, err
		}
		if had := worked() - before; had >= patience || time.Since(began) >= starved {
			return 0, fmt.Errorf("ring0: a guest of %d bytes did not end in %v, of which it had a processor for %v",
				len(code), time.Since(began).Round(time.Millisecond), had.Round(time.Millisecond))
		}
	}
}

// threadTime is what the calling thread has had of a processor, in its guests as well.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return patience // it is unknown: the clock's time is all there is
	}
	return time.Duration(t.Nano())
}

// wake interrupts the guest time and again, until the function that it gives is called: no Kick
// follows that, nor the vCPU's Close.
func wake(c *kvm.VCPU, every time.Duration) (stop func()) {
	ticks, over, ended := time.NewTicker(every), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ticks.C:
				c.Kick()
			case <-over:
				return
			}
		}
	}()
	return func() {
		ticks.Stop()
		close(over)
		<-ended
	}
}
