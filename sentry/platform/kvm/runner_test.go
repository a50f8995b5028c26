package kvm

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// after hires a runner for each of served and judges it, and then counts the quick
// calls until the next would be hired.
func after(t *thread, served ...int) (calls int) {
	for _, n := range served {
		t.served, t.settled = n, false
		t.settle()
		t.settle() // the stub was told not to wait: its exit is not another failure
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

// TestRunnerAway has runners keep from the CPU of who gives them work, and from all that
// the process was kept from when the platform was made.
func TestRunnerAway(t *testing.T) {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &may); err != nil {
		t.Fatal(err)
	}
	if may.Count() < 2 {
		t.Skip("needs two CPUs: run it without taskset, or on a larger machine")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &before)
	w := newWorld(t)
	if len(w.p.crews) == 0 {
		t.Skip("needs two CPUs: there is no runner")
	}
	r := w.p.hire() // none of ours has it, so its thread waits for work
	defer func() { w.p.runners <- r }()
	for cpu := range 1024 {
		if !may.IsSet(cpu) {
			continue
		}
		var here unix.CPUSet
		here.Set(cpu)
		if err := unix.SchedSetaffinity(0, &here); err != nil {
			t.Fatal(err)
		}
		r.away()
		var got unix.CPUSet
		if err := unix.SchedGetaffinity(r.tid, &got); err != nil {
			t.Fatal(err)
		}
		want := may
		want.Clear(cpu)
		if got != want {
			t.Errorf("given work from CPU %d it may run on %v, want %v", cpu, got, want)
		}
		r.may = here // as if the process had this one alone
		r.not = -1
		if r.away(); r.not != -1 {
			t.Errorf("kept from the one CPU %d", cpu)
		}
		r.may = may
	}
}

func TestPriceOfRunner(t *testing.T) {
	for exit, want := range map[time.Duration]int{0: 1 + mostDebt, time.Microsecond: 1 + mostDebt, 30 * time.Microsecond: 6, time.Second: 1} {
		if got := priceOf(exit); got != want {
			t.Errorf("exits of %v: price %d, want %d", exit, got, want)
		}
	}
}
