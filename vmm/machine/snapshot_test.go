package machine

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/kvm"
	"bulkhead/virtio/rng"
	"bulkhead/vmm/serial"
)

func count(m *Machine) uint64 { return binary.LittleEndian.Uint64(m.mem.Bytes()[dataAt:]) }

// restored is a machine that goes on from the file at path.
func restored(t *testing.T, path string, devices ...Device) (*Machine, error) {
	t.Helper()
	s, err := OpenSnapshot(path)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	mem, err := s.Memory()
	must(t, err)
	m, err := New(open(t), Config{CPUs: s.CPUs(), Memory: mem, Devices: devices})
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return m, m.Restore(s)
}

func TestSnapshotGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snap")
	entropy := func() Device { return Device{"rng", rng.New(rand.Reader)} }
	a := guest(t, Config{CPUs: 2, Devices: []Device{entropy()}}, counting...)
	a.uart.Restore(serial.State{In: []byte("typed")})
	must(t, a.Start())
	for count(a) == 0 { // else the test ends by its deadline
		must(t, t.Context().Err())
	}
	must(t, a.Save(path))
	at := count(a)
	regs, err := a.cpus[0].Regs()
	must(t, err)
	clock, err := a.vm.Clock()
	must(t, err)
	if !a.Paused() {
		t.Error("a saved machine goes on by itself")
	}
	must(t, a.Close())

	b, err := restored(t, path, entropy())
	must(t, err)
	if got := count(b); got != at {
		t.Errorf("the memory has %d, not %d", got, at)
	}
	if got, err := b.cpus[0].Regs(); err != nil || got != regs {
		t.Errorf("registers %+v, %v; want %+v", got, err, regs)
	}
	if state, err := b.cpus[1].MPState(); err != nil || state != kvm.Uninitialized {
		t.Errorf("the second CPU is in state %v, %v", state, err)
	}
	if got := b.uart.Save().In; !bytes.Equal(got, []byte("typed")) {
		t.Errorf("the serial port holds %q", got)
	}
	later, err := b.vm.Clock()
	must(t, err)
	if on := time.Duration(later.Clock - clock.Clock); later.Clock < clock.Clock || on > time.Hour {
		t.Errorf("the guest's clock went on by %v", on)
	}
	must(t, b.Start())
	for count(b) == at {
		must(t, t.Context().Err())
	}
	must(t, b.Pause())
}

func TestSnapshotMismatches(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snap")
	a := guest(t, Config{Devices: []Device{{"first", rng.New(rand.Reader)}}}, counting...)
	must(t, a.Start())
	must(t, a.Save(path))
	for _, c := range []struct {
		devices []Device
		want    string
	}{
		{nil, "it has the devices [first], this machine []"},
		{[]Device{{"other", rng.New(rand.Reader)}}, "[other]"},
	} {
		if _, err := restored(t, path, c.devices...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("devices %v: %v, want %q", c.devices, err, c.want)
		}
	}
	must(t, a.Resume())
	if err := a.Save("/no/such/dir/snap"); err == nil {
		t.Error("a snapshot in no directory: no error")
	}
	must(t, a.Resume()) // a machine that could not be saved goes on
	a.End(Ending{Reason: Stopped})
	if err := a.Save(path); err == nil {
		t.Error("a guest that has ended can be saved")
	}
}
