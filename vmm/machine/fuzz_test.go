package machine

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"bulkhead/kvm"
	"bulkhead/virtio"
	"bulkhead/virtio/balloon"
	"bulkhead/virtio/console"
	"bulkhead/virtio/mmio"
	"bulkhead/virtio/rng"
	"bulkhead/virtio/virtiotest"
	"bulkhead/vmm/i8042"
	"bulkhead/vmm/rtc"
	"bulkhead/vmm/serial"
)

// FuzzAccess is a guest that reads and writes any port and any address in any
// width, with its memory full of what it likes: the machine lives, and can stop.
// One machine takes all inputs of a process, for it costs more than they do.
func FuzzAccess(f *testing.F) {
	var op [16]byte
	for _, at := range []uint32{serialPort, 0x64, 0x70, sleepPort, resetPort, 0x5f0} {
		binary.LittleEndian.PutUint32(op[4:], at)
		f.Add(op[:], []byte("memory"))
	}
	op[0] = 1
	for _, at := range []uint32{0x70, 0x50, 0x44, 0x30, 0x100} {
		binary.LittleEndian.PutUint32(op[4:], windowsAt+at)
		f.Add(op[:], []byte{1, 2, 3})
	}
	mem := memory(f)
	out := console.New(nil, nil, nil)
	m, err := New(open(f), Config{CPUs: 1, Memory: mem, Devices: []Device{
		{"rng", rng.New(rand.Reader)}, {"console", out}, {"balloon", balloon.New(mem, mem, nil)},
	}})
	must(f, err)
	f.Cleanup(func() { must(f, m.Close()); must(f, out.Close()) })
	f.Fuzz(func(t *testing.T, ops, contents []byte) {
		copy(m.mem.Bytes()[4096:1<<20], contents)
		for ; len(ops) >= 16; ops = ops[16:] {
			at, width := binary.LittleEndian.Uint32(ops[4:]), 1<<(ops[1]&3)
			data := append([]byte(nil), ops[8:8+width]...)
			if ops[0]&1 == 0 {
				m.port(kvm.IO{In: ops[0]&2 != 0, Port: uint16(at), Size: min(width, 4), Data: data})
				continue
			}
			if ops[0]&4 != 0 { // near the devices, where it matters
				at = windowsAt + at%(4*mmio.Size)
			}
			m.access(kvm.MMIO{Write: ops[0]&2 != 0, Addr: kvm.GPA(at), Data: data})
		}
	})
}

// fuzzed are the devices of a machine that is restored from anything.
func fuzzed(mem virtio.Memory, to balloon.Releaser) []Device {
	return []Device{{"rng", rng.New(rand.Reader)}, {"console", console.New(nil, nil, nil)}, {"balloon", balloon.New(mem, to, nil)}}
}

// nowhere takes pages.
type nowhere struct{}

func (nowhere) Release([]byte) error { return nil }

// FuzzState: what a snapshot says of a machine is refused, or what a machine can be:
// each part takes it as it is, lives, and can be reset. Where there is KVM the
// whole machine is restored, which may fail.
func FuzzState(f *testing.F) {
	good := sampleState(f)
	f.Add(good)
	changed := func(from, to string) []byte {
		b := bytes.Replace(good, []byte(from), []byte(to), 1)
		if bytes.Equal(b, good) {
			f.Errorf("there is no %s in %s", from, good)
		}
		f.Add(b)
		return b
	}
	for _, c := range [][2]string{
		{`"TSCKHz":1000000`, `"TSCKHz":-1`}, {`"Chips":"A`, `"Chips":"B`}, {`"PIT":"`, `"PIT":"AAAA`}, {`"MSRs":""`, `"MSRs":"AAAA"`}, {`"CMOS":{"Index":0`, `"CMOS":{"Index":200`}, {`"Enable":0`, `"Enable":255`},
		{`"Control":1,"Pending":0`, `"Control":1,"Pending":1`}, {`"Clock":5`, `"Clock":5,"Clock":6`}, {`"Clock":5`, `"clock":5`}, {`"In":null`, `"In":"` + strings.Repeat("AAAA", 50) + `"`},
	} {
		if _, err := parseState(changed(c[0], c[1])); err == nil {
			f.Errorf("a state with %s is taken", c[1])
		}
	}
	// Devices look at these.
	changed(`"Status":15`, `"Status":4`)
	changed(`"Ready":true`, `"Ready":false`)
	changed(`"NextUsed":0`, `"NextUsed":1`)
	changed(`"Size":4`, `"Size":65535`)
	sys, err := kvm.Open()
	if err == nil {
		f.Cleanup(func() { sys.Close() })
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseState(text)
		if err != nil {
			return
		}
		restoreParts(t, s)
		if sys == nil || len(s.CPUs) > 2 {
			return
		}
		mem := memory(t)
		m, err := New(sys, Config{CPUs: len(s.CPUs), Memory: mem, Devices: fuzzed(mem, mem)})
		must(t, err)
		_ = m.restore(&s, time.Second)
		must(t, m.Close())
	})
}

func restoreParts(t *testing.T, s state) {
	t.Helper()
	all := func(port interface {
		Read(uint64, []byte)
		Write(uint64, []byte)
	}, ports uint64) {
		b := make([]byte, 1)
		for off := range ports {
			port.Read(off, b)
			port.Write(off, b)
		}
	}
	uart := serial.New(nowhereWriter{}, func(bool) {})
	uart.Restore(s.UART)
	same(t, uart.Save(), s.UART)
	all(uart, serial.Ports)
	must(t, uart.Close())
	keyboard := i8042.New(func() {}, func(bool) {})
	keyboard.Restore(s.Keyboard)
	same(t, keyboard.Save(), s.Keyboard)
	for _, off := range []uint64{0, i8042.Command - i8042.Data} {
		keyboard.Read(off, make([]byte, 1))
		keyboard.Write(off, make([]byte, 1))
	}
	clock := rtc.New(time.Now)
	clock.Restore(s.CMOS)
	same(t, clock.Save(), s.CMOS)
	all(clock, 2)
	mem := virtiotest.NewMemory(64 << 10)
	devices := fuzzed(mem, nowhere{})
	if s.sameDevices(devices) != nil {
		return
	}
	for i, d := range devices {
		transport, err := mmio.New(d.Device, mem, mmio.Lines{})
		must(t, err)
		if transport.Restore(s.Devices[i].State) == nil {
			again, err := transport.Save()
			must(t, err)
			same(t, again, s.Devices[i].State)
			transport.Resume()
			transport.Pause()
		}
		transport.Close()
	}
	must(t, devices[1].Device.(*console.Device).Close())
}

type nowhereWriter struct{}

func (nowhereWriter) Write(b []byte) (int, error) { return len(b), nil }

// same compares a saved state with what it was restored from, in which what is empty may be nil.
func same(t *testing.T, got, want any) {
	t.Helper()
	a, err := json.Marshal(got)
	must(t, err)
	b, err := json.Marshal(want)
	must(t, err)
	empty := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("null"), []byte(`""`)) }
	if !bytes.Equal(empty(a), empty(b)) {
		t.Errorf("restored %s, saved %s", b, a)
	}
}

// sampleState is a machine's with a CPU and three devices, of which one runs.
func sampleState(t testing.TB) []byte {
	s := state{Taken: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC), Clock: 5, TSCKHz: 1_000_000}
	s.CPUs = []cpuState{{XSave: make([]byte, len(kvm.XSave{})), LAPIC: make([]byte, len(kvm.LAPIC{}))}}
	for id := range uint32(chips) {
		s.Chips = append(s.Chips, kvm.IRQChip{ID: id})
	}
	s.UART, s.CMOS = serial.New(nil, nil).Save(), rtc.New(time.Now).Save()
	s.Keyboard = i8042.New(nil, nil).Save()
	mem := virtiotest.NewMemory(64 << 10)
	for i, d := range fuzzed(mem, nowhere{}) {
		transport, err := mmio.New(d.Device, mem, mmio.Lines{})
		must(t, err)
		transport.Pause()
		saved, err := transport.Save()
		must(t, err)
		if i == 0 {
			saved.Status, saved.DriverFeatures = mmio.Acknowledge|mmio.Driver|mmio.FeaturesOK|mmio.DriverOK, virtio.FeatureVersion1
			saved.Queues[0] = mmio.StateQueue{Layout: virtio.Layout{Size: 4, Desc: 256, Avail: 512, Used: 768}, Ready: true}
		}
		s.Devices = append(s.Devices, deviceState{d.Name, saved})
	}
	b, err := json.Marshal(s)
	must(t, err)
	if _, err := parseState(b); err != nil {
		t.Fatal(err)
	}
	return b
}
