package devpts

import "golang.org/x/sys/unix"

// receive takes as much of b as there is room for and says how much.
// n_tty.c, n_tty_receive_buf_common.
func (l *line) receive(b []byte) int {
	done := 0
	for {
		room := bufSize - int(l.head-l.tail)
		if l.iflag(unix.PARMRK) {
			room = (room + 2) / 3 // a byte may need three
		}
		room--
		if room <= 0 {
			// A line that is too long: its editing goes on, in the last place.
			if !l.icanon || l.canon != l.tail {
				return done
			}
			if room < 0 {
				l.head--
			}
			room = 1
		}
		n := min(room, len(b)-done)
		if n == 0 {
			return done
		}
		l.take(b[done : done+n])
		done += n
	}
}

// lookahead obeys XON and XOFF in bytes that there is no room for yet.
func (l *line) lookahead(b []byte) {
	if l.ahead >= len(b) {
		return
	}
	fresh := b[l.ahead:]
	l.ahead = len(b)
	if !l.iflag(unix.IXON) {
		return
	}
	for _, c := range fresh {
		l.flowControl(c)
	}
}

func (l *line) take(b []byte) {
	known := min(l.ahead, len(b))
	l.ahead -= known
	preops := l.iflag(unix.ISTRIP) || l.iflag(unix.IUCLC) && l.lflag(unix.IEXTEN)
	if l.raw || l.lflag(unix.EXTPROC) && !preops {
		for _, c := range b {
			l.put(c)
		}
	} else {
		l.taking, l.settled = true, len(l.out)
		for i, c := range b {
			l.takeOne(c, i < known)
		}
		l.flushEchoes()
		l.taking = false
	}
	if l.byLine() {
		return
	}
	l.commit = l.head
	l.events.slave = l.events.slave || l.head != l.tail
}

func (l *line) takeOne(c byte, flowDone bool) {
	literal := l.lnext
	l.lnext = false
	if l.iflag(unix.ISTRIP) {
		c &= 0x7f
	}
	if l.iflag(unix.IUCLC) && l.lflag(unix.IEXTEN) {
		c = lower(c)
	}
	switch {
	case literal:
		l.takePlain(c)
	case l.lflag(unix.EXTPROC):
		l.put(c)
	case l.isSpecial(c):
		l.takeSpecial(c, flowDone)
	default:
		l.takePlain(c)
	}
}

func (l *line) takePlain(c byte) {
	l.anyRestarts()
	if l.lflag(unix.ECHO) {
		l.echoTyped(c)
		l.commitEchoes()
	}
	l.store(c)
}

// store puts c into the buffer, 0377 twice where PARMRK makes it an escape.
func (l *line) store(c byte) {
	if c == 0xff && l.iflag(unix.PARMRK) {
		l.put(c)
	}
	l.put(c)
}

func (l *line) anyRestarts() {
	if l.stopped && !l.tcoStopped && l.iflag(unix.IXON) && l.iflag(unix.IXANY) {
		l.start()
		l.processEchoes()
	}
}

// flowControl obeys START and STOP, and says whether c was one of them.
func (l *line) flowControl(c byte) bool {
	switch c {
	case l.tio.Cc[unix.VSTART]:
		l.start()
		l.processEchoes()
	case l.tio.Cc[unix.VSTOP]:
		l.stop()
	default:
		return false
	}
	return true
}

func (l *line) takeSpecial(c byte, flowDone bool) {
	if l.iflag(unix.IXON) {
		if flowDone && (c == l.tio.Cc[unix.VSTART] || c == l.tio.Cc[unix.VSTOP]) {
			return
		}
		if !flowDone && l.flowControl(c) {
			return
		}
	}
	if l.lflag(unix.ISIG) && l.takeSignal(c) {
		return
	}
	l.anyRestarts()
	switch {
	case c == '\r' && l.iflag(unix.IGNCR):
		return
	case c == '\r' && l.iflag(unix.ICRNL):
		c = '\n'
	case c == '\n' && l.iflag(unix.INLCR):
		c = '\r'
	}
	if l.icanon && l.takeCanonical(c) {
		return
	}
	if l.lflag(unix.ECHO) {
		if c == '\n' {
			l.finishErasing()
			l.echoRaw('\n')
		} else {
			l.echoTyped(c)
		}
		l.commitEchoes()
	}
	l.store(c)
}

// takeSignal sends the signal that c stands for, if any. n_tty.c, isig.
func (l *line) takeSignal(c byte) bool {
	var sig unix.Signal
	switch c {
	case l.tio.Cc[unix.VINTR]:
		sig = unix.SIGINT
	case l.tio.Cc[unix.VQUIT]:
		sig = unix.SIGQUIT
	case l.tio.Cc[unix.VSUSP]:
		sig = unix.SIGTSTP
	default:
		return false
	}
	l.signal(sig)
	if l.iflag(unix.IXON) {
		l.start()
	}
	if l.lflag(unix.ECHO) {
		l.echoChar(c)
		l.commitEchoes()
	} else {
		l.processEchoes()
	}
	return true
}

func (l *line) signal(sig unix.Signal) {
	l.raise(sig)
	if !l.lflag(unix.NOFLSH) {
		l.echo.clear()
		l.flushOutput()
		l.flushInput()
	}
}

// takeCanonical handles what edits or ends a line.
func (l *line) takeCanonical(c byte) bool {
	cc, ext := &l.tio.Cc, l.lflag(unix.IEXTEN)
	switch {
	case c == cc[unix.VERASE], c == cc[unix.VKILL], c == cc[unix.VWERASE] && ext:
		l.erase(c)
		l.commitEchoes()
	case c == cc[unix.VLNEXT] && ext:
		l.lnext = true
		if l.lflag(unix.ECHO) {
			l.finishErasing()
			if l.lflag(unix.ECHOCTL) {
				l.echoRaw('^')
				l.echoRaw('\b')
				l.commitEchoes()
			}
		}
	case c == cc[unix.VREPRINT] && l.lflag(unix.ECHO) && ext:
		l.reprint(c)
	case c == '\n':
		if l.lflag(unix.ECHO | unix.ECHONL) {
			l.echoRaw('\n')
			l.commitEchoes()
		}
		l.endLine(c)
	case c == cc[unix.VEOF]:
		l.endLine(disabled)
	case c == cc[unix.VEOL], c == cc[unix.VEOL2] && ext:
		if l.lflag(unix.ECHO) {
			if l.canon == l.head {
				l.echoOp(opSetCanonColumn)
			}
			l.echoChar(c)
			l.commitEchoes()
		}
		if c == 0xff && l.iflag(unix.PARMRK) {
			l.put(c)
		}
		l.endLine(c)
	default:
		return false
	}
	return true
}

func (l *line) endLine(c byte) {
	l.setEnd(l.head)
	l.put(c)
	l.canon = l.head
	l.events.slave = true
}

func (l *line) reprint(c byte) {
	l.finishErasing()
	l.echoChar(c)
	l.echoRaw('\n')
	for pos := l.canon; pos%bufSize != l.head%bufSize; pos++ {
		l.echoChar(l.at(pos))
	}
	l.commitEchoes()
}
