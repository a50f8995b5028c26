package platform

// Waiter is a Thread that has a CPU waiting for the answer to a system call.
// Asked for once, when the Thread is made.
type Waiter interface {
	// Waiting says that the answer will not come soon, for the task is about to
	// sleep. It follows a Run that returned Syscall, on the same goroutine.
	Waiting()
}
