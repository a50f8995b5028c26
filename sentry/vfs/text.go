package vfs

import (
	"sync"

	"golang.org/x/sys/unix"
)

// writers counts who has a regular file open for writing; negative: how many
// processes execute it (ETXTBSY, include/linux/fs.h i_writecount).
var writers = struct {
	mu sync.Mutex
	of map[Inode]int
}{of: make(map[Inode]int)}

func addWriters(i Inode, n int) error {
	writers.mu.Lock()
	defer writers.mu.Unlock()
	c := writers.of[i]
	if c*n < 0 {
		return unix.ETXTBSY
	}
	writers.of[i] = c + n
	return nil
}

func subWriters(i Inode, n int) {
	writers.mu.Lock()
	defer writers.mu.Unlock()
	if c := writers.of[i] - n; c != 0 {
		writers.of[i] = c
	} else {
		delete(writers.of, i)
	}
}

func takeWrite(i Inode) error { return addWriters(i, 1) }
func dropWrite(i Inode)       { subWriters(i, 1) }

// DenyWrite is called for a file that is going to be executed; ETXTBSY if it is
// open for writing. AllowWrite ends it.
func DenyWrite(i Inode) error { return addWriters(i, -1) }

// AllowWrite undoes DenyWrite.
func AllowWrite(i Inode) { subWriters(i, -1) }
