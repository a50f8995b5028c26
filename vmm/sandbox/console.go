package sandbox

import (
	"bytes"
	"os"
	"sync"
)

// What is kept of what the guest's kernel prints.
const (
	mostConsole = 1 << 20 // bytes in the file
	tailConsole = 8 << 10 // bytes for an error: a panic's, with its stack
)

// console takes the guest's serial port: into a file, for `bulkhead logs --kernel`,
// up to a length that is the host's to decide, and the last of it into memory.
type console struct {
	mu      sync.Mutex
	file    *os.File // nil: none
	written int
	last    []byte
}

func newConsole(fd int) *console {
	c := &console{}
	if fd != 0 {
		c.file = os.NewFile(uintptr(fd), "console")
	}
	return c
}

// Write never fails: a guest's console is no reason to end it.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = append(c.last, b...)
	c.last = c.last[max(0, len(c.last)-tailConsole):]
	if c.file != nil {
		rest := b[:min(len(b), mostConsole-c.written)]
		n, _ := c.file.Write(rest) // a full disk has no room for what is said about it
		if c.written += n; n > 0 && c.written == mostConsole {
			_, _ = c.file.WriteString("\n[the rest is not kept]\n")
		}
	}
	return len(b), nil
}

// panics begins what a kernel says of its end, before the stack (kernel/panic.c).
const panics = "Kernel panic - not syncing"

// tail is the last lines, fit to be printed, with that before them which a panic began with.
func (c *console) tail() string {
	if c == nil {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	const lines, longest = 5, 500 // what a kernel lacks is one line
	var last [][]byte
	for line := range bytes.Lines(c.last) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			last = append(last, []byte(printable(string(line), longest)))
		}
	}
	end := last[max(0, len(last)-lines):]
	for i := len(last) - lines - 1; i >= 0; i-- {
		if bytes.Contains(last[i], []byte(panics)) {
			end = append([][]byte{last[i]}, end...)
			break
		}
	}
	return string(bytes.Join(end, []byte(" | ")))
}

// words adds the last lines to an error, if there are any.
func (c *console) words() string {
	if text := c.tail(); text != "" {
		return "; the guest's console: " + text
	}
	return ""
}
