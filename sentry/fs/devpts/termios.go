package devpts

import (
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"
)

// struct termios2 is 44 bytes; struct termios the first 36 of them
// (asm-generic/termbits.h).

func encode(t *unix.Termios) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, 44)
	for _, v := range []uint32{t.Iflag, t.Oflag, t.Cflag, t.Lflag} {
		b = le.AppendUint32(b, v)
	}
	b = append(append(b, t.Line), t.Cc[:]...)
	return le.AppendUint32(le.AppendUint32(b, t.Ispeed), t.Ospeed)
}

// decode changes t to what b says; speeds only if b has them.
func decode(t *unix.Termios, b []byte) {
	le := binary.LittleEndian
	t.Iflag, t.Oflag, t.Cflag, t.Lflag = le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	t.Line = b[16]
	copy(t.Cc[:], b[17:36])
	if len(b) >= 44 {
		t.Ispeed, t.Ospeed = le.Uint32(b[36:]), le.Uint32(b[40:])
	}
}

// setTermios is TCSETS and its kin; all output has been sent already.
// tty_ioctl.c, set_termios.
func (c *call) setTermios(size int, flush bool) error {
	b, err := c.get(size)
	if err != nil {
		return err
	}
	tio := c.t.line.tio
	decode(&tio, b)
	c.apply(tio, flush)
	return nil
}

func (c *call) apply(tio unix.Termios, flush bool) {
	tio.Ispeed, tio.Ospeed = inputSpeed(&tio), speed(tio.Cflag&unix.CBAUD, tio.Ospeed)
	if flush {
		c.t.line.flushInput()
	}
	c.t.line.setTermios(tio)
	c.t.pump()
}

// speeds are baud rates by their CBAUD code, without CBAUDEX (tty_baudrate.c).
var speeds = [...]uint32{0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400,
	57600, 115200, 230400, 460800, 500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000,
	3500000, 4000000}

func speed(code, given uint32) uint32 {
	if code == unix.BOTHER {
		return given
	}
	if code&unix.CBAUDEX != 0 {
		code = code&^unix.CBAUDEX + 15
	}
	if int(code) < len(speeds) {
		return speeds[code]
	}
	return 0
}

func inputSpeed(t *unix.Termios) uint32 {
	const shift = 16 // IBSHIFT
	code := t.Cflag >> shift & unix.CBAUD
	if code == 0 { // B0: as output
		return speed(t.Cflag&unix.CBAUD, t.Ospeed)
	}
	return speed(code, t.Ispeed)
}

// struct termio of System V: 16-bit flags, the line and eight characters.
const termioSize = 18

func (c *call) getTermio() error {
	t, le := &c.t.line.tio, binary.LittleEndian
	b := make([]byte, 0, termioSize)
	for _, v := range []uint32{t.Iflag, t.Oflag, t.Cflag, t.Lflag} {
		b = le.AppendUint16(b, uint16(v))
	}
	b = append(append(b, t.Line), t.Cc[:8]...)
	return c.put(append(b, 0))
}

func (c *call) setTermio(flush bool) error {
	b, err := c.get(termioSize)
	if err != nil {
		return err
	}
	tio, le := c.t.line.tio, binary.LittleEndian
	for i, f := range []*uint32{&tio.Iflag, &tio.Oflag, &tio.Cflag, &tio.Lflag} {
		*f = *f&0xffff0000 | uint32(le.Uint16(b[2*i:]))
	}
	tio.Line = b[8]
	copy(tio.Cc[:8], b[9:])
	c.apply(tio, flush)
	return nil
}

func encodeWindow(w unix.Winsize) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, w.Row)
	b = le.AppendUint16(b, w.Col)
	b = le.AppendUint16(b, w.Xpixel)
	return le.AppendUint16(b, w.Ypixel)
}

func decodeWindow(b []byte) unix.Winsize {
	le := binary.LittleEndian
	return unix.Winsize{Row: le.Uint16(b), Col: le.Uint16(b[2:]), Xpixel: le.Uint16(b[4:]), Ypixel: le.Uint16(b[6:])}
}

func (t *Terminal) name() string { return strconv.Itoa(t.index) }
