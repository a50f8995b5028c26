package memory

import (
	"runtime"
	"runtime/debug"
)

// Buffers is application or file memory as the Sentry sees it: pieces in order.
// A piece may lie in a window onto a file that somebody truncates, so bytes are
// only touched by the methods here, which survive SIGBUS.
type Buffers [][]byte

// Len is how many bytes there are.
func (b Buffers) Len() (n int) {
	for _, p := range b {
		n += len(p)
	}
	return n
}

// CopyIn copies from b to dst and says how many bytes.
func (b Buffers) CopyIn(dst []byte) int {
	done := 0
	for _, p := range b {
		if done == len(dst) {
			break
		}
		want := min(len(p), len(dst)-done)
		n := move(dst[done:done+want], p)
		done += n
		if n < want {
			break
		}
	}
	return done
}

// CopyOut copies from src into b and says how many bytes.
func (b Buffers) CopyOut(src []byte) int {
	done := 0
	for _, p := range b {
		if done == len(src) {
			break
		}
		want := min(len(p), len(src)-done)
		n := move(p[:want], src[done:])
		done += n
		if n < want {
			break
		}
	}
	return done
}

// CopyFrom copies from src into b and says how many bytes.
func (b Buffers) CopyFrom(src Buffers) int {
	done := 0
	for _, p := range src {
		n := b.CopyOut(p)
		done += n
		if n < len(p) {
			break
		}
		b = b.Skip(n)
	}
	return done
}

// Skip is b without its first n bytes.
func (b Buffers) Skip(n int) Buffers {
	for i, p := range b {
		if n < len(p) {
			if n == 0 {
				return b[i:]
			}
			rest := make(Buffers, len(b)-i)
			copy(rest, b[i:])
			rest[0] = p[n:]
			return rest
		}
		n -= len(p)
	}
	return nil
}

// Take is the first n bytes of b, or all if there are fewer.
func (b Buffers) Take(n int) Buffers {
	for i, p := range b {
		if n == 0 {
			return b[:i:i]
		}
		if n < len(p) {
			head := make(Buffers, i+1)
			copy(head, b)
			head[i] = p[:n]
			return head
		}
		n -= len(p)
	}
	return b
}

// Zero clears the first n bytes and says how many there were.
func (b Buffers) Zero(n int) int {
	done := 0
	for _, p := range b {
		if done == n {
			break
		}
		want := min(len(p), n-done)
		if !touch(func() { clear(p[:want]) }) {
			break
		}
		done += want
	}
	return done
}

// move is copy, ended by a page that its host file lacks.
func move(dst, src []byte) int {
	n := min(len(dst), len(src))
	if n == 0 || touch(func() { copy(dst, src) }) {
		return n
	}
	done := 0
	for done < n { // page by page, to find where
		part := min(n-done, PageSize-done%PageSize)
		if !touch(func() { copy(dst[done:done+part], src[done:]) }) {
			break
		}
		done += part
	}
	return done
}

// touch runs f and says whether all memory that it touched was there.
func touch(f func()) (ok bool) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			if _, fault := r.(interface {
				runtime.Error
				Addr() uintptr
			}); !fault {
				panic(r)
			}
			ok = false
		}
	}()
	f()
	return true
}
