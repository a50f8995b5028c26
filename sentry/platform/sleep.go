package platform

import "time"

// Sleeper is a Thread that is bound to an OS thread. Go blocks the goroutine of
// such a thread, and wakes it, by way of two other OS threads: 40 µs and more each
// way on a host where a wake-up of another CPU is dear. Sleep blocks the
// OS thread itself, and Wake wakes it: 2.5 µs. Who waits in the Sentry for another
// thread of the application (a pipe, a futex, a child) should do it so.
type Sleeper interface {
	// Sleep returns after Wake, or when timeout has passed (a negative one never
	// does), or early. A Wake since the last Sleep ends it at once. It belongs to the
	// goroutine of Run.
	Sleep(timeout time.Duration)

	// Wake ends the current Sleep or the next one. Any goroutine may call it, also
	// when the thread is closed.
	Wake()
}
