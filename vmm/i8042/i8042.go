// Package i8042 is as much of the keyboard controller as a machine without a
// keyboard needs: the line that resets the CPU, and an answer to every question
// of Linux's driver (drivers/input/serio/i8042.c, libps2.c), which otherwise waits
// half a second for each. It says that there is no auxiliary port, and that the
// keyboard does not reply.
package i8042

import (
	"fmt"
	"sync"
)

// Ports, and what the machine puts on its bus: all from Data to Command. 0x61 to
// 0x63 in between are other chips'.
const (
	Data    = 0x60
	Command = 0x64
)

// Bits of the status register.
const (
	outputFull  = 1 << 0
	systemFlag  = 1 << 2 // self test passed
	lastCommand = 1 << 3 // the last write went to the command port
	timeout     = 1 << 6 // what is to be read stands for a reply that did not come
)

// Commands that mean something here.
const (
	readControl    = 0x20
	writeControl   = 0x60
	auxTest        = 0xa9
	selfTest       = 0xaa
	keyboardTest   = 0xab
	readInput      = 0xc0
	readOutput     = 0xd0
	writeOutput    = 0xd1
	keyboardBuffer = 0xd2
	auxBuffer      = 0xd3
	writeAux       = 0xd4
	pulseFirst     = 0xf0 // up to 0xff: pulse the output lines whose bit is 0
)

// replies are those to commands that have one and take no byte.
var replies = map[byte]byte{
	auxTest:      0x01, // clock line stuck low: nothing is there
	selfTest:     0x55,
	keyboardTest: 0x00, // passed
	readInput:    0x80, // keyboard not locked
	readOutput:   0x01, // reset line high
}

// takesByte are the commands that the next byte at the data port belongs to.
var takesByte = map[byte]bool{writeControl: true, writeOutput: true, keyboardBuffer: true, auxBuffer: true, writeAux: true}

const (
	resetLine   = 1 << 0 // of the output port, active low
	controlIRQ1 = 1 << 0 // of the control byte
	resend      = 0xfe   // with the status timeout: nobody answers (libps2.c)
)

// State is what a snapshot keeps.
type State struct {
	Control byte
	Pending byte   // command that waits for its byte, or 0
	Out     []byte // to be read at the data port
	Silent  bool   // Out[0] stands for a missing reply
	Command bool   // the last write was a command
}

// Controller is the chip. Its methods may be called from any vCPU.
type Controller struct {
	reset func()
	irq   func(high bool) // line 1

	mu sync.Mutex
	s  State
}

// New makes a controller. It calls reset when the guest pulls the reset line,
// and irq when the keyboard's interrupt line changes.
func New(reset func(), irq func(high bool)) *Controller {
	return &Controller{reset: reset, irq: irq, s: State{Control: controlIRQ1}}
}

// Read is a read of port Data+off.
func (c *Controller) Read(off uint64, b []byte) {
	clear(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch off {
	case 0:
		b[0] = c.takeLocked()
	case Command - Data:
		b[0] = c.statusLocked()
	}
}

func (c *Controller) statusLocked() byte {
	var v byte = systemFlag
	if len(c.s.Out) > 0 {
		v |= outputFull
		if c.s.Silent {
			v |= timeout
		}
	}
	if c.s.Command {
		v |= lastCommand
	}
	return v
}

func (c *Controller) takeLocked() byte {
	if len(c.s.Out) == 0 {
		return 0
	}
	v := c.s.Out[0]
	c.s.Out, c.s.Silent = nil, false
	c.irq(false)
	return v
}

// Write is a write of port Data+off.
func (c *Controller) Write(off uint64, b []byte) {
	reset := false
	c.mu.Lock()
	switch off {
	case 0:
		reset = c.dataLocked(b[0])
	case Command - Data:
		reset = c.commandLocked(b[0])
	}
	c.mu.Unlock()
	if reset {
		c.reset()
	}
}

func (c *Controller) commandLocked(v byte) (reset bool) {
	c.s.Command, c.s.Pending = true, 0
	switch reply, ok := replies[v]; {
	case ok:
		c.putLocked(reply, false)
	case v == readControl:
		c.putLocked(c.s.Control, false)
	case takesByte[v]:
		c.s.Pending = v
	case v >= pulseFirst:
		return v&resetLine == 0
	}
	return false
}

func (c *Controller) dataLocked(v byte) (reset bool) {
	pending := c.s.Pending
	c.s.Command, c.s.Pending = false, 0
	switch pending {
	case writeControl:
		c.s.Control = v
	case writeOutput:
		return v&resetLine == 0
	case keyboardBuffer:
		c.putLocked(v, false)
	case auxBuffer:
		c.putLocked(^v, false) // not what was sent, so no auxiliary port (i8042_check_aux)
	case writeAux, 0:
		c.putLocked(resend, true)
	}
	return false
}

// putLocked makes v readable. The controller holds one byte.
func (c *Controller) putLocked(v byte, silent bool) {
	c.s.Out, c.s.Silent = []byte{v}, silent
	if c.s.Control&controlIRQ1 != 0 {
		c.irq(false)
		c.irq(true)
	}
}

// Save is the state for a snapshot.
func (c *Controller) Save() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s
}

// Check refuses what no guest can have made of a controller: a snapshot is a file, which
// somebody may have changed.
func (s State) Check() error {
	if len(s.Out) > 1 || s.Silent && len(s.Out) == 0 || s.Pending != 0 && !takesByte[s.Pending] {
		return fmt.Errorf("i8042: no controller is like %+v", s)
	}
	return nil
}

// Restore takes back a state that Check has passed.
func (c *Controller) Restore(s State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s = s
}
