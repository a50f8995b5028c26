// Package serial is a 16550A UART, the guest's first console. It follows National
// Semiconductor's data sheet (PC16550D) and what Linux's driver looks at
// (drivers/tty/serial/8250). Bytes go out through a queue of its own, so that a
// terminal that stands still never holds a vCPU: the transmitter then says that
// it is busy, and drops what is written all the same.
//
// Speed, parity and modem lines are kept and have no effect.
package serial

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Ports is how many a UART has.
const Ports = 8

// Registers, by offset. The first two are the divisor's while DLAB is set.
const (
	data     = 0
	enable   = 1 // interrupts
	identify = 2 // read; FIFO control when written
	line     = 3 // control
	modem    = 4 // control
	lineStat = 5
	modeStat = 6
	scratch  = 7
)

const (
	enableData  = 1 << 0
	enableEmpty = 1 << 1
	enableMask  = 0x0f

	noInterrupt  = 0x01
	causeEmpty   = 0x02
	causeData    = 0x04
	fifosEnabled = 0xc0

	fifoOn    = 1 << 0
	clearIn   = 1 << 1
	divisor   = 1 << 7 // of line control
	loop      = 1 << 4 // of modem control
	modemMask = 0x1f

	statData  = 1 << 0
	statEmpty = 1<<5 | 1<<6 // holding register and shift register

	carrier = 0xb0 // data carrier, data set ready, clear to send: somebody is there
)

const (
	depth  = 16                   // of the receive FIFO
	queue  = 64 << 10             // bytes that wait for the host before the transmitter is busy
	linger = 2 * time.Millisecond // how long output gathers before it is written
)

// State is what a snapshot keeps.
type State struct {
	Enable, FIFO, Line, Modem, Scratch byte
	Divisor                            uint16
	Empty                              bool // the transmitter's interrupt is pending
	In                                 []byte
}

// UART is the chip. Its methods may be called from any vCPU.
type UART struct {
	out io.Writer
	irq func(high bool)

	mu     sync.Mutex
	s      State
	high   bool      // as irq was last told
	room   sync.Cond // the receive FIFO has room, or the port is open, or the UART closed
	closed bool

	queued  []byte
	waiting bool      // a flush is under way or will be
	idle    sync.Cond // waiting became false
}

// New makes a UART that writes to out and calls irq when its interrupt line changes.
func New(out io.Writer, irq func(high bool)) *UART {
	u := &UART{out: out, irq: irq}
	u.room.L, u.idle.L = &u.mu, &u.mu
	u.s.Divisor = 1 // 115200 baud
	return u
}

// Read is a read of a register.
func (u *UART) Read(off uint64, b []byte) {
	clear(b)
	u.mu.Lock()
	defer u.mu.Unlock()
	b[0] = u.readLocked(off)
	u.lineLocked()
}

func (u *UART) readLocked(off uint64) byte {
	latch := u.s.Line&divisor != 0
	switch {
	case off == data && latch:
		return byte(u.s.Divisor)
	case off == enable && latch:
		return byte(u.s.Divisor >> 8)
	}
	switch off {
	case data:
		return u.takeLocked()
	case enable:
		return u.s.Enable
	case identify:
		return u.identifyLocked()
	case line:
		return u.s.Line
	case modem:
		return u.s.Modem
	case lineStat:
		return u.statusLocked()
	case modeStat:
		return u.modemLocked()
	}
	return u.s.Scratch
}

func (u *UART) takeLocked() byte {
	if len(u.s.In) == 0 {
		return 0
	}
	v := u.s.In[0]
	u.s.In = append(u.s.In[:0], u.s.In[1:]...)
	u.room.Broadcast()
	return v
}

// identifyLocked names the interrupt with the highest rank. Reading that the
// transmitter is empty takes the interrupt away.
func (u *UART) identifyLocked() byte {
	v := u.causeLocked()
	if v == causeEmpty {
		u.s.Empty = false
	}
	if u.s.FIFO&fifoOn != 0 {
		v |= fifosEnabled
	}
	return v
}

func (u *UART) causeLocked() byte {
	switch {
	case u.s.Enable&enableData != 0 && len(u.s.In) > 0:
		return causeData
	case u.s.Enable&enableEmpty != 0 && u.s.Empty:
		return causeEmpty
	}
	return noInterrupt
}

func (u *UART) statusLocked() byte {
	var v byte
	if len(u.s.In) > 0 {
		v |= statData
	}
	if len(u.queued) < queue {
		v |= statEmpty
	}
	return v
}

// modemLocked shows the outputs as inputs while they are looped: DTR as DSR, RTS
// as CTS, OUT1 as RI and OUT2 as DCD.
func (u *UART) modemLocked() byte {
	m := u.s.Modem
	if m&loop == 0 {
		return carrier
	}
	return m&1<<5 | m&2<<3 | m&4<<4 | m&8<<4
}

// Write is a write of a register.
func (u *UART) Write(off uint64, b []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.writeLocked(off, b[0])
	u.lineLocked()
}

func (u *UART) writeLocked(off uint64, v byte) {
	latch := u.s.Line&divisor != 0
	switch {
	case off == data && latch:
		u.s.Divisor = u.s.Divisor&^0xff | uint16(v)
		return
	case off == enable && latch:
		u.s.Divisor = u.s.Divisor&0xff | uint16(v)<<8
		return
	}
	switch off {
	case data:
		u.sendLocked(v)
	case enable:
		// Linux relies on the interrupt of an idle transmitter coming when it is enabled.
		if v&^u.s.Enable&enableEmpty != 0 && len(u.queued) < queue {
			u.s.Empty = true
		}
		u.s.Enable = v & enableMask
		u.room.Broadcast()
	case identify:
		u.s.FIFO = v & fifoOn
		if v&clearIn != 0 {
			u.s.In = u.s.In[:0]
			u.room.Broadcast()
		}
	case line:
		u.s.Line = v
	case modem:
		u.s.Modem = v & modemMask
	case scratch:
		u.s.Scratch = v
	}
}

func (u *UART) sendLocked(v byte) {
	if u.s.Modem&loop != 0 {
		if len(u.s.In) < depth {
			u.s.In = append(u.s.In, v)
		}
		u.s.Empty = true
		return
	}
	if len(u.queued) < queue {
		u.queued = append(u.queued, v)
	}
	u.s.Empty = len(u.queued) < queue
	if !u.waiting {
		u.waiting = true
		time.AfterFunc(linger, u.flush)
	}
}

// flush writes what is queued until nothing is.
func (u *UART) flush() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.queued) > 0 {
		out := u.queued
		u.queued = nil
		u.mu.Unlock()
		// What a terminal that went away no longer takes has nowhere to go.
		_, _ = u.out.Write(out)
		u.mu.Lock()
		u.s.Empty = true
		u.lineLocked()
	}
	u.waiting = false
	u.idle.Broadcast()
}

// lineLocked tells the interrupt line where it changed.
func (u *UART) lineLocked() {
	if high := u.causeLocked() != noInterrupt; high != u.high {
		u.high = high
		u.irq(high)
	}
}

// Receive hands b to the guest, waiting while its FIFO is full, or while it has
// not the port open: Linux clears the FIFO several times before it enables the
// interrupt for data, and what was typed ahead would be lost. It returns
// io.ErrClosedPipe when the UART is closed before the guest took all.
func (u *UART) Receive(b []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(b) > 0 {
		for (len(u.s.In) >= depth || u.s.Enable&enableData == 0) && !u.closed {
			u.room.Wait()
		}
		if u.closed {
			return io.ErrClosedPipe
		}
		n := min(len(b), depth-len(u.s.In))
		u.s.In = append(u.s.In, b[:n]...)
		b = b[n:]
		u.lineLocked()
	}
	return nil
}

// Save is the state for a snapshot. What is still to be written is the host's.
func (u *UART) Save() State {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.s
	s.In = append([]byte(nil), s.In...)
	return s
}

// Check refuses what no guest can have made of a UART: a snapshot is a file, which
// somebody may have changed.
func (s State) Check() error {
	if s.Enable > enableMask || s.FIFO > fifoOn || s.Modem > modemMask || len(s.In) > depth {
		return fmt.Errorf("serial: no UART is like %+v", s)
	}
	return nil
}

// Restore takes back a state that Check has passed, and shows the interrupt line as it was.
func (u *UART) Restore(s State) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.s = s
	u.s.In = append([]byte(nil), s.In...)
	u.high = u.causeLocked() != noInterrupt
}

// Close ends Receive and waits until all that the guest sent is written.
func (u *UART) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	u.room.Broadcast()
	for u.waiting {
		u.idle.Wait()
	}
	return nil
}
