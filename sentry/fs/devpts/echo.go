package devpts

import "golang.org/x/sys/unix"

// Echoes wait in a ring until the output has room: plain bytes, and operations
// that begin with opStart. n_tty.c, "echo_buf".
const (
	opStart          = 0xff
	opMoveBackColumn = 0x80
	opSetCanonColumn = 0x81
	opEraseTab       = 0x82 // with a count

	echoBlock     = 256 // bytes that are worth a turn of output
	echoWatermark = bufSize - (echoBlock + 32)
)

type echoes struct {
	buf                      [bufSize]byte
	head, mark, commit, tail uint64
}

func (e *echoes) add(c byte)         { e.buf[e.head%bufSize] = c; e.head++ }
func (e *echoes) at(pos uint64) byte { return e.buf[pos%bufSize] }
func (e *echoes) clear()             { e.head, e.mark, e.commit, e.tail = 0, 0, 0, 0 }

func (l *line) echoOp(op byte) { l.echo.add(opStart); l.echo.add(op) }

// echoRaw shows c as it is.
func (l *line) echoRaw(c byte) {
	if c == opStart {
		l.echo.add(opStart)
	}
	l.echo.add(c)
}

// echoChar shows c, a control character as ^X if ECHOCTL says so.
func (l *line) echoChar(c byte) {
	if c == opStart || l.lflag(unix.ECHOCTL) && control(c) && c != '\t' {
		l.echo.add(opStart)
	}
	l.echo.add(c)
}

// echoTyped shows a character that becomes part of the line.
func (l *line) echoTyped(c byte) {
	l.finishErasing()
	if l.canon == l.head {
		l.echoOp(opSetCanonColumn)
	}
	l.echoChar(c)
}

func (l *line) finishErasing() {
	if l.erasing {
		l.echoRaw('/')
		l.erasing = false
	}
}

// commitEchoes ends a group of echoes; they go out when a block is full.
func (l *line) commitEchoes() {
	e := &l.echo
	e.mark = e.head
	old, n := e.commit-e.tail, e.head-e.tail
	if n < echoBlock || n%echoBlock > old%echoBlock {
		return
	}
	e.commit = e.head
	l.runEchoes()
}

func (l *line) processEchoes() {
	e := &l.echo
	if e.mark == e.tail {
		return
	}
	e.commit = e.mark
	l.runEchoes()
}

func (l *line) flushEchoes() {
	e := &l.echo
	if !l.lflag(unix.ECHO|unix.ECHONL) || e.commit == e.head {
		return
	}
	e.commit = e.head
	l.runEchoes()
}

// runEchoes writes committed echoes as far as there is room.
func (l *line) runEchoes() {
	e := &l.echo
	for e.tail != e.commit {
		n := l.runEcho()
		if n == 0 {
			break
		}
		e.tail += n
	}
	// Rather lose the oldest than let a later one overrun the ring.
	for e.commit-e.tail >= echoWatermark {
		e.tail += e.size()
	}
}

// size is the length of the oldest echo.
func (e *echoes) size() uint64 {
	if e.at(e.tail) != opStart {
		return 1
	}
	if e.at(e.tail+1) == opEraseTab {
		return 3
	}
	return 2
}

// runEcho does the oldest echo and returns its length, 0 if there is no room.
func (l *line) runEcho() uint64 {
	e := &l.echo
	c, room := e.at(e.tail), l.room()
	if c != opStart {
		if l.oflag(unix.OPOST) {
			if !l.output(c, room) {
				return 0
			}
		} else if room == 0 {
			return 0
		} else {
			l.emit(c)
		}
		return 1
	}
	op := e.at(e.tail + 1)
	switch op {
	case opEraseTab:
		return l.runEraseTab(e.at(e.tail+2), room)
	case opSetCanonColumn:
		l.canonColumn = l.column
	case opMoveBackColumn:
		l.moveBack()
	case opStart:
		if room == 0 {
			return 0
		}
		l.emit(opStart)
		l.column++
	default:
		if room < 2 {
			return 0
		}
		l.emit('^', op^0o100)
		l.column += 2
	}
	return 2
}

func (l *line) runEraseTab(columns byte, room int) uint64 {
	from := uint32(columns)
	if columns&0x80 == 0 {
		from += l.canonColumn
	}
	n := 8 - int(from&7)
	if n > room {
		return 0
	}
	for range n {
		l.emit('\b')
		l.moveBack()
	}
	return 3
}

func (l *line) moveBack() {
	if l.column > 0 {
		l.column--
	}
}
