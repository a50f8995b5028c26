package devpts

import "golang.org/x/sys/unix"

// erase takes back a character, a word or the line, as c says, on the screen
// too. n_tty.c, eraser.
func (l *line) erase(c byte) {
	if l.head == l.canon {
		return
	}
	echo := l.lflag(unix.ECHO)
	one, word := c == l.tio.Cc[unix.VERASE], false
	if !one {
		word = c == l.tio.Cc[unix.VWERASE]
	}
	if !one && !word && !(echo && l.lflag(unix.ECHOK) && l.lflag(unix.ECHOKE) && l.lflag(unix.ECHOE)) {
		l.killUnseen(echo)
		return
	}
	inWord := false
	for l.head != l.canon {
		first, width := l.lastChar()
		if width == 0 {
			break // a piece of a multi-byte character stays
		}
		if word {
			if alnum(first) || first == '_' {
				inWord = true
			} else if inWord {
				break
			}
		}
		l.head -= width
		if echo {
			l.echoErased(first, width, one)
		}
		if one {
			break
		}
	}
	if l.head == l.canon && echo {
		l.finishErasing()
	}
}

// killUnseen drops the line where it is not to be wiped off the screen.
func (l *line) killUnseen(echo bool) {
	l.head = l.canon
	if !echo {
		return
	}
	l.finishErasing()
	l.echoChar(l.tio.Cc[unix.VKILL])
	if l.lflag(unix.ECHOK) {
		l.echoRaw('\n')
	}
}

// lastChar is the first byte of the last character of the line and how many
// bytes that has; 0 if the line begins inside it.
func (l *line) lastChar() (first byte, width uint64) {
	head := l.head
	for {
		head--
		first = l.at(head)
		if !l.continues(first) {
			return first, l.head - head
		}
		if head == l.canon {
			return first, 0
		}
	}
}

// echoErased shows that the character that began with c has gone.
func (l *line) echoErased(c byte, width uint64, one bool) {
	switch {
	case l.lflag(unix.ECHOPRT):
		if !l.erasing {
			l.echoRaw('\\')
			l.erasing = true
		}
		l.echoChar(c)
		for i := uint64(1); i < width; i++ {
			l.echoRaw(l.at(l.head + i))
			l.echoOp(opMoveBackColumn)
		}
	case one && !l.lflag(unix.ECHOE):
		l.echoChar(l.tio.Cc[unix.VERASE])
	case c == '\t':
		l.echoEraseTab()
	default:
		if control(c) && l.lflag(unix.ECHOCTL) {
			l.wipe()
		}
		if !control(c) || l.lflag(unix.ECHOCTL) {
			l.wipe()
		}
	}
}

func (l *line) wipe() {
	for _, c := range []byte("\b \b") {
		l.echoRaw(c)
	}
}

// echoEraseTab goes back over a tab: how far depends on the columns since the
// tab before it, or since the line began.
func (l *line) echoEraseTab() {
	columns, afterTab := byte(0), false
	for pos := l.head; pos != l.canon; {
		pos--
		c := l.at(pos)
		if c == '\t' {
			afterTab = true
			break
		}
		if control(c) {
			if l.lflag(unix.ECHOCTL) {
				columns += 2
			}
		} else if !l.continues(c) {
			columns++
		}
	}
	columns &= 7
	if afterTab {
		columns |= 0x80
	}
	l.echoOp(opEraseTab)
	l.echo.add(columns)
}

// continues says that c is inside a UTF-8 character.
func (l *line) continues(c byte) bool { return l.iflag(unix.IUTF8) && c&0xc0 == 0x80 }

// The kernel's character classes are those of Latin-1 (lib/ctype.c).

func control(c byte) bool { return c < 0x20 || c == 0x7f }

func upperCase(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 0xc0 && c <= 0xde && c != 0xd7
}

func lowerCase(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 0xdf && c != 0xf7
}

func alnum(c byte) bool { return c >= '0' && c <= '9' || upperCase(c) || lowerCase(c) }

func lower(c byte) byte {
	if upperCase(c) {
		return c + 32
	}
	return c
}

func upper(c byte) byte {
	if lowerCase(c) {
		return c - 32
	}
	return c
}
