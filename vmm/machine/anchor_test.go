package machine

import (
	"sync"
	"testing"
)

// TestAnchor holds while devices work, lets go when they rest, holds again, and ends.
func TestAnchor(t *testing.T) {
	var a anchor
	a.start()
	for range 2 {
		a.touch()
		if !a.down.Load() {
			t.Error("it does not hold")
		}
		for a.down.Load() { // else the test ends by its deadline
		}
	}
	var hammer sync.WaitGroup
	for range 8 {
		hammer.Go(func() {
			for range 1000 {
				a.touch()
			}
		})
	}
	hammer.Wait()
	a.stop()
	a.touch() // of a device that is stopped later
	a.stop()
}
