package boot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Kernels have one of two ways to a port: small ones /dev/port (CONFIG_DEVPORT),
// Debian's ioperm(2) (CONFIG_X86_IOPL_IOPERM). Without either, or under
// lockdown, the guest still runs, and the host does not hear of its exit code.

// outb is in port_amd64.s.
func outb(port uint16, value byte)

// openPorts is the way that this kernel has.
func openPorts() func(port uint16, value byte) {
	f, err := openPortDevice("")
	if err != nil {
		return writePort
	}
	return func(port uint16, value byte) { writePortDevice(f, port, value) }
}

// portDevice is mem(4)'s number of /dev/port.
var portDevice = int(unix.Mkdev(1, 4))

// openPortDevice makes a node of its own in dir, for as long as the opening
// takes: the first stage is told before /dev is there.
func openPortDevice(dir string) (*os.File, error) {
	node := dir + "/.port"
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, portDevice); err != nil {
		return nil, fmt.Errorf("make %s: %w", node, err)
	}
	defer os.Remove(node)
	return os.OpenFile(node, os.O_WRONLY, 0)
}

func writePortDevice(f *os.File, port uint16, value byte) {
	if _, err := f.WriteAt([]byte{value}, int64(port)); err != nil {
		complain(fmt.Errorf("write %d to port %#x: %w", value, port, err))
	}
}

// writePort is for the thread that has the right to the port (ioperm(2)).
func writePort(port uint16, value byte) {
	if err := unix.Ioperm(int(port), 1, 1); err != nil {
		complain(fmt.Errorf("write %d to port %#x: %w (the host will not hear of the exit code; the kernel needs CONFIG_DEVPORT or CONFIG_X86_IOPL_IOPERM)", value, port, err))
		return
	}
	outb(port, value)
}
