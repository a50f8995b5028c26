package mmio_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"

	"bulkhead/virtio"
	"bulkhead/virtio/mmio"
	"bulkhead/virtio/virtiotest"
)

// access is a write of a register, as FuzzTransport's script has it.
func access(at uint16, v uint32) []byte {
	b := binary.LittleEndian.AppendUint16([]byte{1, 4}, at)
	return binary.LittleEndian.AppendUint32(b, v)
}

// FuzzTransport is any sequence of accesses, of any width, with pauses,
// snapshots and a memory of the fuzzer's bytes. In the end a reset always works.
func FuzzTransport(f *testing.F) {
	var seed []byte
	for _, w := range [][2]uint32{
		{regStatus, 1}, {regStatus, 3}, {0x024, 1}, {0x020, 1}, {0x024, 0}, {0x020, 1 << 29}, {regStatus, agreed},
		{regQueueSel, 0}, {0x038, 4}, {0x080, 256}, {0x090, 512}, {0x0a0, 768}, {regReady, 1}, {regStatus, running}, {mmio.QueueNotify, 0},
	} {
		seed = append(seed, access(uint16(w[0]), w[1])...)
	}
	ram := make([]byte, 1024)
	copy(ram[256:], virtiotest.Table(virtiotest.Desc{Addr: 100, Len: 8, Flags: virtiotest.Next, Next: 1}, virtiotest.Desc{Addr: 200, Len: 8, Flags: virtiotest.Write}))
	ram[512+2] = 1
	f.Add(ram, seed)
	f.Add(ram, slices.Concat(seed, []byte{3}, seed))
	f.Add(ram, slices.Concat(seed, []byte{2}))
	f.Fuzz(func(t *testing.T, ram, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			mem := virtiotest.NewMemory(64 << 10)
			copy(mem.Bytes(0, mem.Size()), ram)
			play(t, mem, script)
		})
	})
}

func play(t *testing.T, mem *virtiotest.Memory, script []byte) {
	tr, err := mmio.New(&echo{}, mem, mmio.Lines{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { tr.Close() }()
	take := func(n int) []byte {
		b := make([]byte, n)
		script = script[copy(b, script):]
		return b
	}
	for len(script) > 0 {
		switch op := take(1)[0]; op % 4 {
		case 0, 1:
			b := make([]byte, take(1)[0]%16)
			at := uint64(binary.LittleEndian.Uint16(take(2)))
			if op&0x80 != 0 {
				at = ^at
			}
			if op%4 == 0 {
				tr.Read(at, b)
				continue
			}
			copy(b, take(len(b)))
			tr.Write(at, b)
		case 2:
			tr.Pause()
			tr.Resume()
		case 3:
			tr = replace(t, tr, mem)
		}
		synctest.Wait()
	}
	tr.Metrics()
	reset(t, tr)
}

// replace is a snapshot and its restoration.
func replace(t *testing.T, old *mmio.Transport, mem *virtiotest.Memory) *mmio.Transport {
	t.Helper()
	old.Pause()
	state, err := old.Save()
	if err != nil {
		t.Fatal(err)
	}
	old.Close()
	tr, err := mmio.New(&echo{}, mem, mmio.Lines{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Restore(state); err != nil {
		t.Fatal(err)
	}
	tr.Resume()
	return tr
}

func reset(t *testing.T, tr *mmio.Transport) {
	t.Helper()
	tr.Write(regStatus, make([]byte, 4))
	for _, status := range []uint32{0, 1, 3} {
		tr.Write(regStatus, binary.LittleEndian.AppendUint32(nil, status))
		b := make([]byte, 4)
		if tr.Read(regStatus, b); binary.LittleEndian.Uint32(b) != status {
			t.Fatalf("after a reset: wrote status %d, read %d", status, b)
		}
	}
}

var _ virtio.Keeper = (*echo)(nil)

// FuzzRestore: a snapshot that says anything of a device is refused, or makes one that
// lives, stops, and can be reset. Its memory is the fuzzer's too.
func FuzzRestore(f *testing.F) {
	good := mmio.State{Device: (&echo{}).ID(), Status: mmio.Status(running), DriverFeatures: 1 << 32, Own: []byte{1}}
	for range (&echo{}).Queues() {
		q := mmio.StateQueue{Layout: virtio.Layout{Size: 4, Desc: 256, Avail: 512, Used: 768}, Ready: true}
		good.Queues = append(good.Queues, q)
	}
	text, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, make([]byte, 1024))
	f.Add(bytes.ReplaceAll(text, []byte("256"), []byte("65535")), make([]byte, 1024))
	f.Add(bytes.ReplaceAll(text, []byte(`"NextAvail":0`), []byte(`"NextAvail":9`)), make([]byte, 1024))
	f.Fuzz(func(t *testing.T, text, ram []byte) {
		var s mmio.State
		if json.Unmarshal(text, &s) != nil {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			mem := virtiotest.NewMemory(64 << 10)
			copy(mem.Bytes(0, mem.Size()), ram)
			tr, err := mmio.New(&echo{}, mem, mmio.Lines{})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			if tr.Restore(s) != nil {
				return
			}
			if again, err := tr.Save(); err != nil || !reflect.DeepEqual(again, s) {
				t.Errorf("restored %+v, saved %+v, %v", s, again, err)
			}
			tr.Resume()
			synctest.Wait()
			tr.Pause()
			tr.Metrics()
			tr.Resume()
			reset(t, tr)
		})
	})
}
