package sandbox

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func init() { runtime.LockOSThread() } // main's goroutine to the process's first thread

// first is how tests have a goroutine on that thread.
var first = make(chan func())

// besides has the tests run while main's goroutine serves first.
func besides(run func() int) int {
	code := make(chan int)
	go func() { code <- run() }()
	for {
		select {
		case f := <-first:
			f()
		case c := <-code:
			return c
		}
	}
}

// TestSpoil: what ends its thread leaves the process's first one alone.
func TestSpoil(t *testing.T) {
	for _, on := range []string{"first", "another"} {
		var thread int
		if on == "first" {
			done := make(chan struct{})
			first <- func() { spoil(func() { thread = unix.Gettid() }); close(done) }
			<-done
		} else {
			done := make(chan struct{})
			go func() { defer close(done); spoil(func() { thread = unix.Gettid() }) }()
			<-done
		}
		if thread == unix.Getpid() || thread == 0 {
			t.Errorf("from the %s thread: it ran on thread %d of process %d", on, thread, unix.Getpid())
		}
	}
}
