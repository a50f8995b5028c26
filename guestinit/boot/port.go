package boot

import "golang.org/x/sys/unix"

// outb is in port_amd64.s.
func outb(port uint16, value byte)

// writePort writes value to a port of the machine. A kernel without
// CONFIG_X86_IOPL_IOPERM, or one that is locked down, has no way to; then the
// guest still runs, and the host does not hear of its exit code.
func writePort(port uint16, value byte) {
	if err := unix.Ioperm(int(port), 1, 1); err != nil {
		complain(&portError{port, err})
		return
	}
	outb(port, value)
}
