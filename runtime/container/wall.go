package container

import (
	"os"

	"bulkhead/runtime/template"

	"golang.org/x/sys/unix"
)

// machineRuns says why this host runs no machine, nil if it does. To find that out takes a
// small one, whose end waits for the host's kernel (RCU: 11 ms in the lab, of 250 ticks a
// second); where one ran natively it is kept with the templates that it did, and holds for as
// long as the host runs and its /dev/kvm is the same.
func (r *Runtime) machineRuns() error {
	dir, err := r.templates()
	if err != nil || dir == "" {
		return r.Machine()
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return r.Machine() // which says it in its words
	}
	defer kvm.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(kvm.Fd()), &st); err != nil {
		return r.Machine()
	}
	store, err := template.Open(dir)
	if err != nil {
		return r.Machine()
	}
	words := []any{"machines run", st.Dev, st.Ino, st.Rdev, st.Ctim.Nano()}
	if store.Known(words) {
		return nil
	}
	if err = r.Machine(); err == nil {
		_ = store.Remember(words) // or the next finds out for itself
	}
	return err
}

// chooseWall takes a machine where this host runs one natively, has what one boots, and the
// container asks for nothing that a machine cannot do; else the Sentry.
func (n *creation) chooseWall() string {
	err := n.pickWall(vmWall)
	if err == nil {
		err = n.openBoot()
	}
	if err != nil {
		n.rt.Log.Debug("isolation auto takes the Sentry", "container", n.ID, "why", err)
		return sentryWall
	}
	return vmWall
}
