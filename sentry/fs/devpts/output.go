package devpts

import "golang.org/x/sys/unix"

// flipLimit is what may wait for the other side beyond its line discipline's
// buffer. Linux counts allocations against 8 KiB (drivers/tty/pty.c,
// pty_common_install) and so takes 12 to 14 KiB of payload.
const flipLimit = 12 << 10

// outLimit is what may wait for the master.
const outLimit = bufSize - 1 + flipLimit

// room is how many bytes may be written now.
func (l *line) room() int {
	if l.stopped {
		return 0
	}
	return max(outLimit-len(l.out), 0)
}

func (l *line) emit(b ...byte) {
	l.out = append(l.out, b...)
	l.events.master = true
}

// write takes what a process prints, as far as there is room.
// n_tty.c, n_tty_write.
func (l *line) write(b []byte) int {
	l.processEchoes()
	if !l.oflag(unix.OPOST) {
		n := min(len(b), l.room())
		if n > 0 {
			l.emit(b[:n]...)
		}
		return n
	}
	for i, c := range b {
		if !l.output(c, l.room()) {
			return i
		}
	}
	return len(b)
}

// output writes c in the form that c_oflag wants; false if there is no room.
// n_tty.c, do_output_char.
func (l *line) output(c byte, room int) bool {
	if room == 0 {
		return false
	}
	switch c {
	case '\n':
		return l.newLine(room)
	case '\r':
		if l.oflag(unix.ONOCR) && l.column == 0 {
			return true
		}
		if l.oflag(unix.OCRNL) {
			c = '\n'
			if l.oflag(unix.ONLRET) {
				l.canonColumn, l.column = 0, 0
			}
			break
		}
		l.canonColumn, l.column = 0, 0
	case '\t':
		spaces := 8 - int(l.column&7)
		if l.tio.Oflag&unix.TABDLY == unix.TAB3 {
			if room < spaces {
				return false
			}
			l.column += uint32(spaces)
			l.emit([]byte("        ")[:spaces]...)
			return true
		}
		l.column += uint32(spaces)
	case '\b':
		l.moveBack()
	default:
		if control(c) {
			break
		}
		if l.oflag(unix.OLCUC) {
			c = upper(c)
		}
		if !l.continues(c) {
			l.column++
		}
	}
	l.emit(c)
	return true
}

func (l *line) newLine(room int) bool {
	if l.oflag(unix.ONLRET) {
		l.column = 0
	}
	if l.oflag(unix.ONLCR) {
		if room < 2 {
			return false
		}
		l.canonColumn, l.column = 0, 0
		l.emit('\r', '\n')
		return true
	}
	l.canonColumn = l.column
	l.emit('\n')
	return true
}
