package kvm

import (
	"testing"
	"time"
)

// after hires a runner for each of served and judges it, and then counts the quick
// calls until the next would be hired.
func after(t *thread, served ...int) (calls int) {
	for _, n := range served {
		t.served, t.settled = n, false
		t.settle(t.p.price)
		t.settle(t.p.price) // the stub was told not to wait: its exit is not another failure
	}
	for ; !t.hot(); t.quick++ {
		calls++
	}
	return calls
}

func TestRunnersAccount(t *testing.T) {
	const price = 6
	for name, c := range map[string]struct {
		served []int
		want   int
	}{
		"new":                                 {nil, enough},
		"paid":                                {[]int{price}, 0},
		"in vain":                             {[]int{0}, enough + price},
		"in vain, twice":                      {[]int{0, 0}, enough + 2*price},
		"in vain, always":                     {make([]int, 100), enough + mostDebt},
		"in vain, always, and then paid":      {append(make([]int, 100), 1000), 0},
		"one in four pays for the others":     {[]int{85, 1, 0, 2, 85, 1, 0, 2}, enough},
		"paid, and then in vain for too long": {append([]int{1000}, make([]int, mostCredit+1)...), enough + price},
	} {
		th := &thread{p: &Platform{price: price}}
		if got := after(th, c.served...); got != c.want {
			t.Errorf("%s: the next runner takes %d quick calls, want %d", name, got, c.want)
		}
	}
}

func TestPriceOfRunner(t *testing.T) {
	for exit, want := range map[time.Duration]int{0: 1 + mostDebt, time.Microsecond: 1 + mostDebt, 30 * time.Microsecond: 6, time.Second: 1} {
		if got := priceOf(exit); got != want {
			t.Errorf("exits of %v: price %d, want %d", exit, got, want)
		}
	}
}
