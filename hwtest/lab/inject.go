package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// kvmAMD is the module that gentle is for.
const kvmAMD = "kvm-amd.ko"

// gentle is the kvm-amd module, changed so that QEMU takes a guest's interrupts as it should.
//
// KVM injects an interrupt by the field EVENTINJ (APM vol. 2 §15.20). QEMU delivers it within VMRUN
// (target/i386/tcg, svm_helper.c, helper_vmrun; 7.2 and 10.0 alike), and makes two mistakes:
//   - It leaves the vector in exception_index until the guest's next exit. If the translated code is
//     left before that, for a timer under -icount or for another processor's request, the main loop
//     takes it for an exception that is due and delivers it again (cpu-exec.c, cpu_handle_interrupt), with the
//     guest's interrupts off, in the midst of its handler. A guest of one processor then spins
//     for ever in a lock that it holds.
//   - A nested page fault at the push on the guest's stack is taken for one of the instruction VMRUN, and
//     the machine's own RIP is written down as the guest's (cpu_vmexit).
//
// So the module asks for a virtual interrupt in its place (V_IRQ, §15.21.4), which QEMU
// delivers from its main loop, and takes one that was not delivered for an event that
// was cut short. A processor would do as well. It is done around the call that enters the guest, by
// code in the place of a function that only encrypted guests need.
//
// A module that does not look as it should is an error.
func gentle(module []byte) ([]byte, error) {
	m, err := openModule(slices.Clone(unsigned(module)))
	if err != nil {
		return nil, err
	}
	caller, err := m.function("svm_vcpu_enter_exit")
	if err != nil {
		return nil, err
	}
	enter, err := m.function("__svm_vcpu_run")
	if err != nil {
		return nil, err
	}
	spare, err := m.function("sev_dbg_crypt")
	if err != nil {
		return nil, err
	}
	vmcb, err := m.vmcb(enter)
	if err != nil {
		return nil, err
	}
	call, err := m.call(caller, enter)
	if err != nil {
		return nil, err
	}
	code, hole := injection(vmcb)
	at, err := m.replace(spare, code)
	if err != nil {
		return nil, err
	}
	// Of the two calls the linker knows: the one to enter becomes ours, and ours one to enter.
	m.put(at.free, relocation{at.offset + uint64(hole), enter.symbol, elf.R_X86_64_PLT32, -4})
	m.put(call, relocation{m.get(call).offset, spare.symbol, elf.R_X86_64_PLT32, int64(at.offset-spare.Value) - 4})
	return m.object, nil
}

// injection is the code, for a struct vcpu_svm whose current_vmcb lies at vmcb, and where in it the
// place of the call is. In: RDI and RSI, for __svm_vcpu_run. It keeps what C keeps.
// Offsets are of the VMCB's control area (APM vol. 2, appendix B).
func injection(vmcb uint32) (code []byte, hole int) {
	code = append(code,
		0x53,             // push rbx
		0x55,             // push rbp
		0x48, 0x8b, 0x9f) // mov rbx, [rdi+vmcb]
	code = binary.LittleEndian.AppendUint32(code, vmcb)
	code = append(code,
		0x48, 0x8b, 0x1b, // mov rbx, [rbx]
		0x8b, 0xab, 0xa8, 0, 0, 0, // mov ebp, [rbx+0xa8]: EVENTINJ
		0x89, 0xe8, // mov eax, ebp
		0xc1, 0xe8, 0x08, // shr eax, 8
		0x3d, 0, 0, 0x80, 0, // cmp eax, 0x800000: valid, of type 0
		0x75, 12, // jne none
		0xf6, 0x43, 0x61, 0x01, // test byte [rbx+0x61], 1: V_IRQ, which KVM uses itself to hear of an open window
		0x75, 6, // jne none
		0xf6, 0x43, 0x0c, 0x10, // test byte [rbx+0x0c], 0x10: the intercept of it
		0x74, 4, // je virtual
		0x31, 0xed, // none: xor ebp, ebp
		0xeb, 35, // jmp enter
		0x40, 0x0f, 0xb6, 0xc5, // virtual: movzx eax, bpl
		// One that was cut short right before is injected as KVM has it. It had asked for an interrupt of the
		// machine's own, to be called back as soon as the guest has taken this, and of the two QEMU prefers
		// that one, again and again. With it the guest exits at once, too.
		0x3b, 0x43, 0x64, // cmp eax, [rbx+0x64]
		0x75, 6, // jne ask
		0x83, 0x63, 0x64, 0, // and dword [rbx+0x64], 0
		0xeb, 0xed, // jmp none
		0x89, 0x43, 0x64, // ask: mov [rbx+0x64], eax: V_INTR_VECTOR
		0x81, 0x4b, 0x60, 0x00, 0x01, 0x1f, 0x00, // or dword [rbx+0x60], V_IRQ | V_INTR_PRIO | V_IGN_TPR
		0x81, 0xa3, 0xa8, 0, 0, 0, 0, 0, 0, 0, // and dword [rbx+0xa8], 0
		0xe8) // enter: call __svm_vcpu_run
	hole = len(code)
	code = append(code, 0, 0, 0, 0,
		0x85, 0xed, // test ebp, ebp
		0x74, 25, // je out
		0xf6, 0x43, 0x61, 0x01, // test byte [rbx+0x61], 1
		0x75, 6, // jne cut
		0x83, 0x63, 0x64, 0, // and dword [rbx+0x64], 0
		0xeb, 6, // jmp taken
		0x89, 0xab, 0x88, 0, 0, 0, // cut: mov [rbx+0x88], ebp: EXITINTINFO
		0x81, 0x63, 0x60, 0xff, 0xfe, 0xe0, 0xff, // taken: and dword [rbx+0x60], the rest
		0x5d, // out: pop rbp
		0x5b, // pop rbx
		0xc3) // ret
	return code, hole
}

// unsigned is a module without the signature behind it, if there is one, which is not right any more:
// Linux refuses a wrong one, and loads a module without (include/linux/module_signature.h).
func unsigned(module []byte) []byte {
	const fields = 12 // bytes, the last four of them the signature's length
	rest, ok := bytes.CutSuffix(module, []byte("~Module signature appended~\n"))
	if !ok || len(rest) < fields {
		return module
	}
	length := binary.BigEndian.Uint32(rest[len(rest)-4:])
	rest = rest[:len(rest)-fields]
	if uint64(length) > uint64(len(rest)) {
		return module
	}
	return rest[:len(rest)-int(length)]
}

// object is a module's ELF file, to change.
type object struct {
	object  []byte
	file    *elf.File
	symbols []elf.Symbol
}

var errModule = errors.New("not the module that was expected")

func openModule(module []byte) (*object, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	symbols, err := file.Symbols()
	if err != nil {
		return nil, err
	}
	return &object{module, file, symbols}, nil
}

// function is a function of a module.
type function struct {
	elf.Symbol
	symbol uint32 // its number
	code   []byte // of the file
}

func (m *object) function(name string) (function, error) {
	for i, s := range m.symbols {
		if s.Name != name || int(s.Section) >= len(m.file.Sections) {
			continue
		}
		section := m.file.Sections[s.Section]
		if s.Value > section.FileSize || s.Size > section.FileSize-s.Value || section.Offset+s.Value+s.Size > uint64(len(m.object)) {
			break
		}
		// elf leaves out symbol 0.
		return function{s, uint32(i + 1), m.object[section.Offset+s.Value:][:s.Size:s.Size]}, nil
	}
	return function{}, fmt.Errorf("%w: no function %s", errModule, name)
}

// vmcb is where a vcpu_svm has the address of what describes its VMCB, as enter reads it: mov rax, [rdi+offset]; mov
// rax, [rax+8], the physical address. The virtual one stands before it.
func (m *object) vmcb(enter function) (uint32, error) {
	const length = 11
	for i := 0; i+length <= len(enter.code); i++ {
		if c := enter.code[i:]; bytes.HasPrefix(c, []byte{0x48, 0x8b, 0x87}) && bytes.HasPrefix(c[7:], []byte{0x48, 0x8b, 0x40, 0x08}) {
			return binary.LittleEndian.Uint32(c[3:]), nil
		}
	}
	return 0, fmt.Errorf("%w: %s loads no VMCB", errModule, enter.Name)
}

// relocation is an Elf64_Rela.
type relocation struct {
	offset uint64
	symbol uint32
	kind   elf.R_X86_64
	addend int64
}

const relocationSize = 24

// get and put are for the one that lies at a place of the file.
func (m *object) get(at int) relocation {
	b := m.object[at:]
	return relocation{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[12:]),
		elf.R_X86_64(binary.LittleEndian.Uint32(b[8:])), int64(binary.LittleEndian.Uint64(b[16:]))}
}

func (m *object) put(at int, r relocation) {
	b := m.object[at:]
	binary.LittleEndian.PutUint64(b, r.offset)
	binary.LittleEndian.PutUint32(b[8:], uint32(r.kind))
	binary.LittleEndian.PutUint32(b[12:], r.symbol)
	binary.LittleEndian.PutUint64(b[16:], uint64(r.addend))
}

// relocations are the places of those for a section.
func (m *object) relocations(of elf.SectionIndex) []int {
	var places []int
	for _, s := range m.file.Sections {
		if s.Type != elf.SHT_RELA || s.Info != uint32(of) || s.Offset+s.FileSize > uint64(len(m.object)) {
			continue
		}
		for at := uint64(0); at+relocationSize <= s.FileSize; at += relocationSize {
			places = append(places, int(s.Offset+at))
		}
	}
	return places
}

// call is the one relocation by which a function calls another.
func (m *object) call(from, to function) (int, error) {
	var found []int
	for _, at := range m.relocations(from.Section) {
		if r := m.get(at); r.symbol == to.symbol && r.offset >= from.Value && r.offset < from.Value+from.Size {
			found = append(found, at)
		}
	}
	if len(found) != 1 || m.get(found[0]).addend != -4 {
		return 0, fmt.Errorf("%w: %s calls %s %d times", errModule, from.Name, to.Name, len(found))
	}
	return found[0], nil
}

// space is where code lies in its section, and a relocation that is free for it.
type space struct {
	offset uint64
	free   int
}

// replace puts code into f, behind the call that a tracer may change.
func (m *object) replace(f function, code []byte) (space, error) {
	const traced = 5 // bytes
	from, to := f.Value+traced, f.Value+traced+uint64(len(code))
	if to > f.Value+f.Size {
		return space{}, fmt.Errorf("%w: %s has %d bytes, and %d are needed", errModule, f.Name, f.Size, traced+len(code))
	}
	free := 0
	for _, at := range m.relocations(f.Section) {
		if r := m.get(at); r.offset+8 > from && r.offset < to {
			m.put(at, relocation{r.offset, 0, elf.R_X86_64_NONE, 0})
			free = at
		}
	}
	if free == 0 {
		return space{}, fmt.Errorf("%w: nothing is relocated in %s", errModule, f.Name)
	}
	// What the kernel changes at load (alternatives, return thunks …) it finds by sections of its own.
	for _, s := range m.file.Sections {
		if s.Type != elf.SHT_RELA || s.Info == uint32(f.Section) || int(s.Info) >= len(m.file.Sections) || quiet[m.file.Sections[s.Info].Name] {
			continue
		}
		for _, at := range m.relocations(elf.SectionIndex(s.Info)) {
			r := m.get(at)
			if int(r.symbol) < 1 || int(r.symbol) > len(m.symbols) {
				continue
			}
			target := m.symbols[r.symbol-1]
			if where := target.Value + uint64(r.addend); target.Section == f.Section && where >= from && where < to {
				return space{}, fmt.Errorf("%w: %s has code that %s changes", errModule, f.Name, m.file.Sections[s.Info].Name)
			}
		}
	}
	copy(f.code[traced:], code)
	return space{from, free}, nil
}

// quiet are the sections that name code and do not have it changed.
var quiet = map[string]bool{".orc_unwind_ip": true}
