package devpts

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

// bufSize is N_TTY_BUF_SIZE: what a line discipline holds for its reader, and
// the longest line (drivers/tty/n_tty.c).
const bufSize = 4096

// disabled is the value of a control character that is switched off; in the
// read buffer, marked as an end of line, it stands for end of file.
const disabled = 0

// line is the N_TTY line discipline of a slave: it edits and echoes what comes
// from the master and shapes what goes to it. The positions count bytes for
// ever; the buffers are rings. Terminal.mu guards it.
type line struct {
	tio unix.Termios

	buf    [bufSize]byte
	ends   [bufSize / 64]uint64 // which bytes end a line
	head   uint64               // behind the last byte
	canon  uint64               // behind the last complete line
	commit uint64               // what a non-canonical reader may take
	tail   uint64               // next byte for the reader

	special [4]uint64 // characters that are not simply stored and echoed
	raw     bool      // nothing is special
	icanon  bool
	lnext   bool // the next character is literal (VLNEXT)
	erasing bool // between \ and / of ECHOPRT
	ahead   int  // bytes of the input queue whose XON/XOFF was obeyed already

	stopped    bool // by STOP or TCOOFF: no output
	tcoStopped bool

	column, canonColumn uint32 // where the cursor is, and was when the line began

	echo echoes
	out  []byte // for the master to read

	taking  bool // input is being processed
	settled int  // length of out before that

	packet bool  // TIOCPKT
	status uint8 // TIOCPKT_… to report

	raise  func(unix.Signal) // to the foreground process group
	events pending
}

// pending says whom to wake once Terminal.mu is free.
type pending struct{ master, slave bool }

func (l *line) iflag(f uint32) bool { return l.tio.Iflag&f != 0 }
func (l *line) oflag(f uint32) bool { return l.tio.Oflag&f != 0 }
func (l *line) lflag(f uint32) bool { return l.tio.Lflag&f != 0 }

func (l *line) at(pos uint64) byte    { return l.buf[pos%bufSize] }
func (l *line) isEnd(pos uint64) bool { return l.ends[pos%bufSize/64]>>(pos%64)&1 != 0 }
func (l *line) setEnd(pos uint64)     { l.ends[pos%bufSize/64] |= 1 << (pos % 64) }
func (l *line) clearEnd(pos uint64)   { l.ends[pos%bufSize/64] &^= 1 << (pos % 64) }

func (l *line) put(c byte) {
	l.buf[l.head%bufSize] = c
	l.head++
}

// byLine says that a reader gets whole lines.
func (l *line) byLine() bool { return l.icanon && !l.lflag(unix.EXTPROC) }

// setTermios makes t hold. n_tty.c, n_tty_set_termios; pty.c, pty_set_termios.
func (l *line) setTermios(t unix.Termios) {
	old := l.tio
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB|addrb) | unix.CS8 | unix.CREAD
	l.tio = t
	l.reportFlow(&old)
	if (old.Lflag^t.Lflag)&(unix.ICANON|unix.EXTPROC) != 0 {
		l.changeMode()
	}
	l.icanon = l.lflag(unix.ICANON)
	l.findSpecial()
	if !l.iflag(unix.IXON) && old.Iflag&unix.IXON != 0 && !l.tcoStopped {
		l.start()
		l.processEchoes()
	}
	l.events = pending{true, true}
}

// changeMode turns what is buffered into one line, or lines into bytes.
func (l *line) changeMode() {
	clear(l.ends[:])
	if !l.lflag(unix.ICANON) || l.head == l.tail {
		l.canon = l.tail
	} else {
		l.setEnd(l.head - 1)
		l.canon = l.head
	}
	l.commit = l.head
	l.erasing, l.lnext = false, false
}

// specials lists which control characters are special under which flags.
var specials = []struct {
	lflag, iflag uint32 // all of these
	cc           []int
}{
	{lflag: unix.ICANON, cc: []int{unix.VERASE, unix.VKILL, unix.VEOF, unix.VEOL}},
	{lflag: unix.ICANON | unix.IEXTEN, cc: []int{unix.VWERASE, unix.VLNEXT, unix.VEOL2}},
	{lflag: unix.ICANON | unix.IEXTEN | unix.ECHO, cc: []int{unix.VREPRINT}},
	{lflag: unix.ISIG, cc: []int{unix.VINTR, unix.VQUIT, unix.VSUSP}},
	{iflag: unix.IXON, cc: []int{unix.VSTART, unix.VSTOP}},
}

func (l *line) findSpecial() {
	const cooked = unix.ISTRIP | unix.IUCLC | unix.IGNCR | unix.ICRNL | unix.INLCR | unix.IXON | unix.PARMRK
	l.raw = !l.iflag(cooked) && !l.lflag(unix.ICANON|unix.ISIG|unix.ECHO)
	l.special = [4]uint64{}
	if l.raw {
		return
	}
	mark := func(c byte) { l.special[c/64] |= 1 << (c % 64) }
	if l.iflag(unix.IGNCR | unix.ICRNL) {
		mark('\r')
	}
	if l.iflag(unix.INLCR) || l.lflag(unix.ICANON) {
		mark('\n')
	}
	for _, s := range specials {
		if l.tio.Lflag&s.lflag != s.lflag || l.tio.Iflag&s.iflag != s.iflag {
			continue
		}
		for _, i := range s.cc {
			mark(l.tio.Cc[i])
		}
	}
	l.special[0] &^= 1 << disabled
}

func (l *line) isSpecial(c byte) bool { return l.special[c/64]>>(c%64)&1 != 0 }

// flushInput forgets what the reader has not taken. n_tty.c, reset_buffer_flags.
func (l *line) flushInput() {
	l.head, l.canon, l.commit, l.tail = 0, 0, 0, 0
	clear(l.ends[:])
	l.erasing, l.ahead = false, 0
	l.report(unix.TIOCPKT_FLUSHREAD, 0)
}

// flushOutput forgets output that the master's own line discipline has not
// taken over yet: what it has no room for, and the echoes of the input at hand.
// pty.c, pty_flush_buffer.
func (l *line) flushOutput() {
	l.out = l.out[:min(len(l.out), bufSize-1)]
	if l.taking {
		l.out = l.out[:min(len(l.out), l.settled)]
	}
	l.report(unix.TIOCPKT_FLUSHWRITE, 0)
	l.events.slave = true
}

// report tells a master in packet mode what changed.
func (l *line) report(set, clear uint8) {
	if l.packet {
		l.status = l.status&^clear | set
		l.events.master = true
	}
}

// reportFlow tells a master in packet mode whether ^S and ^Q work now.
func (l *line) reportFlow(old *unix.Termios) {
	flow := func(t *unix.Termios) bool {
		return t.Iflag&unix.IXON != 0 && t.Cc[unix.VSTOP] == 'S'-64 && t.Cc[unix.VSTART] == 'Q'-64
	}
	switch was, is := flow(old), flow(&l.tio); {
	case !was && is:
		l.report(unix.TIOCPKT_DOSTOP, unix.TIOCPKT_DOSTOP|unix.TIOCPKT_NOSTOP)
	case was && !is:
		l.report(unix.TIOCPKT_NOSTOP, unix.TIOCPKT_DOSTOP|unix.TIOCPKT_NOSTOP)
	}
	if (old.Lflag|l.tio.Lflag)&unix.EXTPROC != 0 {
		l.report(unix.TIOCPKT_IOCTL, 0)
	}
}

func (l *line) stop() {
	if !l.stopped {
		l.stopped = true
		l.report(unix.TIOCPKT_STOP, unix.TIOCPKT_START)
	}
}

func (l *line) start() {
	if l.stopped && !l.tcoStopped {
		l.stopped = false
		l.report(unix.TIOCPKT_START, unix.TIOCPKT_STOP)
		l.events.slave = true
	}
}

// nextEnd finds the first end of line in [from, to).
func (l *line) nextEnd(from, to uint64) (uint64, bool) {
	for pos := from; pos < to; {
		w := l.ends[pos%bufSize/64] >> (pos % 64)
		if w == 0 {
			pos += 64 - pos%64
			continue
		}
		pos += uint64(bits.TrailingZeros64(w))
		return pos, pos < to
	}
	return 0, false
}
