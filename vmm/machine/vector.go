package machine

import "fmt"

// vectorAt is where a processor of a PC begins (SDM, "First Instruction Executed"), as
// real-mode code reaches it: f000:fff0. There is no firmware to begin with here, but
// guests jump there to be reset: Linux with CONFIG_EFI does, on every machine with
// hardware-reduced ACPI, whatever reset register that has
// (arch/x86/kernel/reboot.c, reboot_init and machine_real_restart). In
// memory without code it would run through zeros for ever.
const vectorAt = 0xffff0

// vector is what is there:
//
//	mov dx, resetPort
//	mov al, resetValue
//	out dx, al
//	hlt
//	jmp short -3
var vector = []byte{0xba, resetPort & 0xff, resetPort >> 8, 0xb0, resetValue, 0xee, 0xf4, 0xeb, 0xfd}

// writeVector puts it there.
func (m *Machine) writeVector() error {
	to, err := m.mem.Slice(vectorAt, uint64(len(vector)))
	if err != nil {
		return fmt.Errorf("reset vector: %w", err)
	}
	copy(to, vector)
	return nil
}
