package virtiotest

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/synctest"

	"bulkhead/virtio"
)

// Fuzz lets a hostile driver loose on the devices that newDevice makes: requests
// of any shape, descriptors of any content, jumping indices, accesses to the
// configuration, pauses, resets and queues left out, as the fuzzer's bytes say. The device may
// fail; it may not panic, hang, or keep a chain when it stops.
//
// settle waits until the device has done what it will do for now. If it is nil,
// the device runs in a bubble of testing/synctest, and must block in ways that
// the bubble knows (channels, conditions, timers). Otherwise it may call
// AwaitSleep for the queues whose chains the device answers at once.
func Fuzz(f *testing.F, newDevice func(t *testing.T) virtio.Device, settle func(*Driver), seeds ...[]byte) {
	for _, seed := range seeds {
		f.Add(uint64(0), seed)
		f.Add(^uint64(0), seed)
	}
	f.Fuzz(func(t *testing.T, features uint64, script []byte) {
		settling(t, settle, func(t *testing.T, settle func(*Driver)) {
			drive(t, newDevice(t), features, script, settle)
		})
	})
}

// FuzzRestore lets the devices that newDevice makes go on from states that somebody wrote
// into a snapshot, with a driver that is hostile as well (Fuzz). A device refuses a
// state, or takes it as it is: it would save the same again.
func FuzzRestore(f *testing.F, newDevice func(t *testing.T) virtio.Device, settle func(*Driver), script []byte, states ...[]byte) {
	for _, state := range states {
		f.Add(state, uint64(0), script)
		f.Add(state, ^uint64(0), script)
	}
	f.Fuzz(func(t *testing.T, state []byte, features uint64, script []byte) {
		settling(t, settle, func(t *testing.T, settle func(*Driver)) {
			dev := newDevice(t)
			keeper := dev.(virtio.Keeper)
			if keeper.Restore(state) != nil {
				return
			}
			if again, err := keeper.Save(); err != nil || !bytes.Equal(again, state) {
				t.Errorf("restored %q, saved %q, %v", state, again, err)
			}
			drive(t, dev, features, script, settle)
		})
	})
}

// settling runs f with settle, or where there is none in a bubble that tells when all rest.
func settling(t *testing.T, settle func(*Driver), f func(*testing.T, func(*Driver))) {
	if settle != nil {
		f(t, settle)
		return
	}
	synctest.Test(t, func(t *testing.T) {
		f(t, func(*Driver) { synctest.Wait() })
	})
}

// drive plays script against a device, from its start to its stop.
func drive(t *testing.T, dev virtio.Device, features uint64, script []byte, settle func(*Driver)) {
	d := StartIn(t, NewMemory(fuzzRAM), dev, features)
	play(d, script, func() { settle(d) })
	d.Stop()
}

const (
	fuzzRAM   = 256 << 10 // bytes
	fuzzSpace = 128 << 10 // where requests lie
	maxSteps  = 64        // of a script
)

// FuzzRequest is a seed's step: a chain of out to read and in to write.
func FuzzRequest(queue int, out [][]byte, in []int) []byte {
	b := []byte{0, byte(queue), byte(len(out)), byte(len(in))}
	for _, o := range out {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(o)))
		b = append(b, o...)
	}
	for _, n := range in {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
	}
	return b
}

// The other steps of a seed.
var (
	FuzzPause = []byte{6}
	FuzzReset = []byte{7, 0}
)

// script is the bytes that are left; it reads 0 past their end.
type script struct{ b []byte }

func (s *script) bytes(n int) []byte {
	b := make([]byte, n)
	s.b = s.b[copy(b, s.b):]
	return b
}

func (s *script) u8() byte     { return s.bytes(1)[0] }
func (s *script) u16() uint16  { return binary.LittleEndian.Uint16(s.bytes(2)) }
func (s *script) u32() uint32  { return binary.LittleEndian.Uint32(s.bytes(4)) }
func (s *script) u64() uint64  { return binary.LittleEndian.Uint64(s.bytes(8)) }
func (s *script) queue() int   { return int(s.u8()) }
func (s *script) rest() []byte { return s.bytes(min(int(s.u8()), len(s.b))) }

// play does what the script says.
func play(d *Driver, bytes []byte, settle func()) {
	d.Failed() // it may
	s := &script{bytes}
	place := &cursor{at: fuzzSpace}
	for range maxSteps {
		if len(s.b) == 0 {
			return
		}
		step(d, s, place)
		settle()
		for _, q := range d.queues {
			for _, _, ok := q.Reap(); ok; _, _, ok = q.Reap() {
			}
		}
	}
}

func step(d *Driver, s *script, place *cursor) {
	switch op := s.u8() % 9; op {
	case 0, 1, 2, 3:
		if len(d.queues) == 0 {
			return
		}
		i := s.queue() % len(d.queues)
		ringSteps[op](d.queues[i].Ring, d.Memory, s, place)
		d.Kick(i)
	case 4:
		d.SetConfig(uint32(s.u16()), s.rest())
	case 5:
		d.Config(s.u32(), int(s.u8()))
	case 6:
		d.Stop()
		d.Restart()
	case 7:
		d.Memory.Reset()
		d.ResetWithout(uint(s.u8()))
		d.Failed()
	case 8:
		b := s.rest()
		copy(d.Memory.Bytes(virtio.Addr(s.u32()%(fuzzRAM/2)), fuzzRAM/2), b)
	}
}

var ringSteps = [4]func(*Ring, *Memory, *script, *cursor){
	fuzzRequest,
	func(r *Ring, _ *Memory, s *script, _ *cursor) {
		r.SetDesc(s.u16()&(r.Size-1), Desc{Addr: virtio.Addr(s.u64()), Len: s.u32(), Flags: s.u16(), Next: s.u16()})
	},
	func(r *Ring, _ *Memory, s *script, _ *cursor) { r.Offer(s.u16()) },
	func(r *Ring, _ *Memory, s *script, _ *cursor) { r.Jump(s.u16()) },
}

// fuzzRequest is well-formed, but for its meaning.
func fuzzRequest(r *Ring, mem *Memory, s *script, place *cursor) {
	outs, ins := int(s.u8()%8), int(s.u8()%8)
	count := min(outs+ins, int(r.Size))
	head := r.avails
	for i := range count {
		d := Desc{Len: uint32(s.u16()), Next: (head + uint16(i) + 1) & (r.Size - 1)}
		d.Addr = place.take(int(d.Len))
		if i < outs {
			copy(mem.Bytes(d.Addr, int(d.Len)), s.bytes(min(int(d.Len), len(s.b))))
		} else {
			d.Flags |= Write
		}
		if i < count-1 {
			d.Flags |= Next
		}
		r.SetDesc((head+uint16(i))&(r.Size-1), d)
	}
	r.Offer(head & (r.Size - 1))
}

// cursor goes round the space of requests.
type cursor struct{ at int }

func (c *cursor) take(n int) virtio.Addr {
	if c.at+n > fuzzRAM {
		c.at = fuzzSpace
	}
	at := c.at
	c.at += n
	return virtio.Addr(at)
}
