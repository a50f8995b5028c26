package cost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/hwtest/guest"
	"bulkhead/kvm"
)

// measurements in the order of a report.
var measurements = []measurement{
	{"instruction-ring0", Speed, "an instruction in ring 0", "dec and jnz of a loop; a processor takes a few tenths of a ns, an emulator hundreds", true, 1, instructions(0)},
	{"instruction-ring3", Speed, "an instruction in ring 3", "the same loop", true, 1, instructions(3)},

	{"getppid", Crossing, "native system call (getppid)", "for scale: this process, this kernel", false, 1, getppid},
	{"syscall-stub", Crossing, "syscall to LSTAR and back, no exit", "a loop of syscall in ring 3 answered by three instructions in the guest", true, 1, syscallStub},
	{"shared-memory", Crossing, "shared-memory round trip", "ring 3 writes a word, a spinning host thread answers", true, 2, sharedMemory},
	{"run-empty", Crossing, "KVM_RUN that does not enter", "the ioctl with a kick pending", true, 1, emptyRun},
	{"exit-ring0", Crossing, "exit from ring 0 and back", "out in a loop, to user space", true, 1, portExits(0)},
	{"exit-ring3", Crossing, "exit from ring 3 and back", "the same from ring 3, registers by KVM_CAP_SYNC_REGS", true, 1, portExits(3)},
	{"exit-mmio", Crossing, "MMIO exit from ring 3 and back", "a store to where no memory is", true, 1, mmioExits},
	{"ioeventfd", Crossing, "doorbell taken by an ioeventfd", "out in a loop of ring 0, no exit to user space", true, 1, doorbells},
	{"ptrace-same", Crossing, "ptrace stop, same CPU", "PTRACE_SYSEMU: a system call of the traced process to its stop and on, both on CPU 0", false, 1, ptraceStops(true)},
	{"ptrace-cross", Crossing, "ptrace stop, across CPUs", "the same with the tracer on CPU 0 and the traced on CPU 1", false, 2, ptraceStops(false)},

	{"kick", Waking, "kick of a running guest", "from the signal to KVM_RUN's return", true, 2, kicks},
	{"irqfd-halt", Waking, "irqfd wakes a halted guest", "from the eventfd's write to the exit of the guest's handler", true, 2, wakes},

	{"fault", Memory, "page fault of ring 3", "through the IDT to user space, entry written, access done again", true, 1, faults},
	{"touch-4k", Memory, "first touch, 4 KiB entries", "a page of guest memory, entries ready, host pages not allocated", true, 1, touches(false)},
	{"touch-2m", Memory, "first touch, 2 MiB entries", "the same with huge pages on both sides; per 4 KiB", true, 1, touches(true)},
	{"touch-native-4k", Memory, "native first touch", "for scale: this process", false, 1, nativeTouches(unix.MADV_NOHUGEPAGE)},
	{"touch-native-2m", Memory, "native first touch, huge pages", "for scale; per 4 KiB", false, 1, nativeTouches(unix.MADV_HUGEPAGE)},
	{"shootdown", Memory, "taking a page from a running CPU", "madvise(MADV_DONTNEED) of a page that a guest is reading", true, 2, shootdowns},

	{"vm", Making, "making a VM", "KVM_CREATE_VM", true, 1, makeVMs},
	{"vcpu", Making, "making a vCPU", "KVM_CREATE_VCPU and its mapping", true, 1, makeVCPUs},
	{"machine", Making, "making a machine that runs", "VM, 2 MiB of memory, one vCPU in 64-bit mode, its first instruction", true, 1, makeMachines},
}

// machine makes one in 64-bit mode and gives it to f with a time to run in.
func machine(b *bench, o guest.Options, ring uint8, code []byte, f func(*guest.Machine, *guest.Watch) ([]float64, error)) (samples []float64, err error) {
	m, err := guest.New(b.sys, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.Long(m.CPU, ring, code...); err != nil {
		return nil, err
	}
	w := guest.Within(m.CPU, patience)
	defer w.Stop()
	return f(m, w)
}

// toDone runs the guest to its DonePort.
func toDone(w *guest.Watch) func() error { return func() error { return w.Port(guest.DonePort) } }

// loop is code that does body so often as looped puts into its first instruction,
// says done and begins again. body keeps ebx.
func loop(body ...byte) []byte {
	code := append([]byte{0xbb, 1, 0, 0, 0}, body...)         // mov ebx,1
	code = append(code, 0xff, 0xcb, 0x75, byte(-len(body)-4)) // dec ebx; jnz body
	code = append(code, 0xe6, guest.DonePort)
	return append(code, 0xeb, byte(-len(code)-2)) // jmp to the mov
}

// looped takes samples of a guest that runs loop. How often it goes round for a
// sample is found by trying: a fiftieth of the budget, or enough for any clock.
func (b *bench) looped(m *guest.Machine, w *guest.Watch) ([]float64, error) {
	run := toDone(w)
	for n := uint32(1); ; n *= 4 {
		binary.LittleEndian.PutUint32(m.Mem[guest.CodeAt+1:], n)
		begin := time.Now()
		if err := run(); err != nil {
			return nil, err
		}
		if n > 1 && (time.Since(begin) > b.budget/50 || n >= 1<<22) {
			return b.batches(40, int(n), run)
		}
	}
}

func instructions(ring uint8) func(*bench) ([]float64, error) {
	return func(b *bench) ([]float64, error) {
		samples, err := machine(b, guest.Options{}, ring, loop(), b.looped)
		for i := range samples {
			samples[i] /= 2 // dec and jnz
		}
		return samples, err
	}
}

func getppid(b *bench) ([]float64, error) {
	const per = 1000
	return b.batches(50, per, func() error {
		for range per {
			unix.Getppid()
		}
		return nil
	})
}

// returner answers SYSCALL in either ring: kvm-hosts.md, "Behaviour to know".
var returner = []byte{
	0x8c, 0xca, // mov edx,cs
	0xf6, 0xc2, 0x03, // test dl,3
	0x75, 0x03, // jnz user
	0x48, 0x0f, 0x07, // sysretq
	0xff, 0xe1, // user: jmp rcx
}

func syscallStub(b *bench) ([]float64, error) {
	return machine(b, guest.Options{}, 3, loop(0x0f, 0x05), func(m *guest.Machine, w *guest.Watch) ([]float64, error) {
		copy(m.Mem[guest.LSTAR:], returner)
		return b.looped(m, w)
	})
}

// sharedMemory: the guest counts at Scratch and waits until 128 bytes on it reads the same.
func sharedMemory(b *bench) ([]float64, error) {
	const apart = 0x80
	// inc eax; mov [rdi],eax; cmp [rdi+128],eax; jne to the cmp
	code := loop(0xff, 0xc0, 0x89, 0x07, 0x39, 0x87, apart, 0, 0, 0, 0x75, 0xf8)
	return machine(b, guest.Options{}, 3, code, func(m *guest.Machine, w *guest.Watch) ([]float64, error) {
		var stop atomic.Bool
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			runtime.LockOSThread()
			ask, answer := word(m.Mem, guest.Scratch), word(m.Mem, guest.Scratch+apart)
			for !stop.Load() {
				answer.Store(ask.Load())
			}
		}()
		samples, err := b.looped(m, w)
		stop.Store(true)
		<-ended
		return samples, err
	})
}

func emptyRun(b *bench) ([]float64, error) {
	m, err := guest.New(b.sys, guest.Options{})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return b.each(500, func() error {
		m.CPU.Kick()
		if exit, err := m.CPU.Run(); err != nil || exit != kvm.ExitInterrupted {
			return errors.Join(err, fmt.Errorf("a kicked run left by %v", exit))
		}
		return nil
	})
}

func portExits(ring uint8) func(*bench) ([]float64, error) {
	return func(b *bench) ([]float64, error) {
		// out DonePort,al; jmp
		return machine(b, guest.Options{}, ring, []byte{0xe6, guest.DonePort, 0xeb, 0xfc}, func(m *guest.Machine, w *guest.Watch) ([]float64, error) {
			m.CPU.KeepSynced(kvm.SyncRegs)
			return b.each(1000, toDone(w))
		})
	}
}

func mmioExits(b *bench) ([]float64, error) {
	// mov byte [HoleAt],1; jmp
	code := []byte{0xc6, 0x04, 0x25, 0, 0, 0, 0x40, 1, 0xeb, 0xf6}
	return machine(b, guest.Options{}, 3, code, func(m *guest.Machine, w *guest.Watch) ([]float64, error) {
		m.MapHole()
		return b.each(500, func() error {
			exit, err := w.Run()
			if err == nil && exit != kvm.ExitMMIO {
				err = fmt.Errorf("a store to nowhere left by %v", exit)
			}
			return err
		})
	})
}

func doorbells(b *bench) ([]float64, error) {
	return machine(b, guest.Options{}, 0, loop(0xe6, 0x43), func(m *guest.Machine, w *guest.Watch) ([]float64, error) {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("eventfd: %w", err)
		}
		defer unix.Close(fd)
		if err := m.BindDoorbell(fd, kvm.Doorbell{Addr: 0x43, Len: 1, Port: true}); err != nil {
			return nil, err
		}
		return b.looped(m, w)
	})
}

func makeVMs(b *bench) ([]float64, error) {
	var samples []float64
	for start := time.Now(); len(samples) < few || len(samples) < 15 && time.Since(start) < b.budget; {
		begin := time.Now()
		vm, err := guest.NewVM(b.sys)
		if err != nil {
			return nil, err
		}
		samples = append(samples, float64(time.Since(begin).Nanoseconds()))
		if err := vm.Close(); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

func makeVCPUs(b *bench) (samples []float64, err error) {
	m, err := guest.New(b.sys, guest.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	for id := 1; id <= 15; id++ {
		begin := time.Now()
		c, err := m.NewVCPU(id)
		if err != nil {
			return nil, err
		}
		samples = append(samples, float64(time.Since(begin).Nanoseconds()))
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

func makeMachines(b *bench) ([]float64, error) {
	var samples []float64
	for start := time.Now(); len(samples) < few || len(samples) < 15 && time.Since(start) < b.budget; {
		begin := time.Now()
		// out DonePort,al
		_, err := machine(b, guest.Options{}, 3, []byte{0xe6, guest.DonePort}, func(_ *guest.Machine, w *guest.Watch) ([]float64, error) {
			err := w.Port(guest.DonePort)
			samples = append(samples, float64(time.Since(begin).Nanoseconds()))
			return nil, err
		})
		if err != nil {
			return nil, err
		}
	}
	return samples, nil
}
