package devpts

import "golang.org/x/sys/unix"

// readable is poll(2)'s idea: VMIN bytes, unless VTIME makes one enough.
// n_tty.c, input_available_p.
func (l *line) readable() bool {
	if l.byLine() {
		return l.canon != l.tail
	}
	want := uint64(1)
	if l.tio.Cc[unix.VTIME] == 0 && l.tio.Cc[unix.VMIN] > 0 {
		want = uint64(l.tio.Cc[unix.VMIN])
	}
	return l.commit-l.tail >= want
}

// enough says that a read of size bytes returns something now. short: it takes
// less than VMIN. As in Linux, VMIN beyond a chunk waits for a chunk.
func (l *line) enough(size int, short bool) bool {
	if l.byLine() {
		return l.canon != l.tail
	}
	want := 1
	if !short && !l.icanon {
		want = max(1, min(int(l.tio.Cc[unix.VMIN]), size, readChunk))
	}
	return l.commit-l.tail >= uint64(want)
}

// returnsEmpty says that a read without input is not to wait: VMIN and VTIME 0.
func (l *line) returnsEmpty() bool {
	return !l.icanon && l.tio.Cc[unix.VMIN] == 0 && l.tio.Cc[unix.VTIME] == 0
}

// take1 is one read(2) of at most size bytes; enough has said yes.
func (l *line) take1(size int) []byte {
	if l.byLine() {
		return l.takeLine(size)
	}
	n := min(uint64(size), l.commit-l.tail)
	if vmin := l.tio.Cc[unix.VMIN]; !l.icanon && vmin > readChunk {
		n = min(n, readChunk) // the first chunk is short of VMIN and ends the read
	}
	b := l.copyOut(n)
	l.tail += n
	if l.icanon && n == 1 && b[0] == l.tio.Cc[unix.VEOF] && l.commit == l.tail {
		return nil // EXTPROC: the other side sends the EOF character
	}
	return b
}

// takeLine takes a line or its beginning. n_tty.c, canon_copy_from_read_buf.
func (l *line) takeLine(size int) []byte {
	stop := min(l.canon, l.tail+uint64(size))
	end, found := l.nextEnd(l.tail, stop)
	if !found {
		b := l.copyOut(stop - l.tail)
		l.tail = stop
		l.skipEOF()
		return b
	}
	n := end + 1 - l.tail
	if l.at(end) == disabled {
		n--
	}
	b := l.copyOut(n)
	l.clearEnd(end)
	l.tail = end + 1
	return b
}

// skipEOF drops an end of file right behind a read that filled its buffer, so
// that the next read does not take it for one of its own.
func (l *line) skipEOF() {
	if l.tail != l.canon && l.isEnd(l.tail) && l.at(l.tail) == disabled {
		l.clearEnd(l.tail)
		l.tail++
	}
}

func (l *line) copyOut(n uint64) []byte {
	b := make([]byte, n)
	at := l.tail % bufSize
	copy(b[copy(b, l.buf[at:]):], l.buf[:])
	return b
}

// available is FIONREAD: in canonical mode the bytes of whole lines.
func (l *line) available() int {
	if !l.byLine() {
		return int(l.head - l.tail)
	}
	n := int(l.canon - l.tail)
	for pos := l.tail; pos != l.canon; pos++ {
		if l.isEnd(pos) && l.at(pos) == disabled {
			n--
		}
	}
	return n
}
