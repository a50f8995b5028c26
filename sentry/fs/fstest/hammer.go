package fstest

import (
	"math/rand"
	"sync"
	"testing"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Hammer does random operations from many goroutines at once. What they give is
// not looked at: they must end, and the race detector must be content.
func Hammer(t *testing.T, make func(t *testing.T, arena *memory.Arena) vfs.FileSystem, goroutines, steps int) {
	first := newSentry(t, &Config{Sentry: make})
	kinds := allKinds(Weights)
	xattrs := []string{"user.a", "user.b"}
	var all, start sync.WaitGroup
	start.Add(1)
	for n := range goroutines {
		s := &sentry{ns: first.ns, users: first.users}
		all.Go(func() {
			r := rand.New(rand.NewSource(int64(n)))
			start.Wait()
			for range steps {
				s.do(randomOp(r, kinds, xattrs))
				if r.Intn(20) == 0 {
					s.list("/")
				}
			}
			for _, d := range s.fds {
				if d != nil {
					d.Unref()
				}
			}
		})
	}
	start.Done()
	all.Wait()
	c := Config{Still: true, Tell: Tell}
	c.state(first, "/", nil)
}
