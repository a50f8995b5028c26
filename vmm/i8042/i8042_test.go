package i8042

import "testing"

// rig is a controller, with what it did to the machine.
type rig struct {
	*Controller
	resets, edges int
}

func newRig() *rig {
	r := &rig{}
	r.Controller = New(func() { r.resets++ }, func(high bool) {
		if high {
			r.edges++
		}
	})
	return r
}

func (r *rig) get(port uint64) byte {
	b := []byte{0}
	r.Read(port-Data, b)
	return b[0]
}

func (r *rig) put(port uint64, v byte) { r.Write(port-Data, []byte{v}) }

// ask is i8042_command of Linux's driver: write, and read what comes at once.
func (r *rig) ask(t *testing.T, command byte) byte {
	t.Helper()
	r.put(Command, command)
	if r.get(Command)&outputFull == 0 {
		t.Fatalf("command %#x has no answer; the driver would wait half a second", command)
	}
	return r.get(Data)
}

// TestLinuxProbe takes the steps of drivers/input/serio/i8042.c.
func TestLinuxProbe(t *testing.T) {
	r := newRig()
	if r.get(Command)&outputFull != 0 {
		t.Error("something to read before anything was asked")
	}
	if r.get(Command)&2 != 0 {
		t.Error("the input buffer is full: the driver would wait")
	}
	if got := r.ask(t, selfTest); got != 0x55 {
		t.Errorf("self test %#x, want 0x55", got)
	}
	was := r.ask(t, readControl)
	r.put(Command, writeControl)
	r.put(Data, was|0x40)
	if got := r.ask(t, readControl); got != was|0x40 {
		t.Errorf("control byte %#x, want %#x", got, was|0x40)
	}
	r.put(Command, auxBuffer)
	r.put(Data, 0x5a)
	if r.get(Command)&outputFull == 0 || r.get(Data) == 0x5a {
		t.Error("the auxiliary loop answers as if there were a port")
	}
	if got := r.ask(t, auxTest); got == 0 || got == 0xfa || got == 0xff {
		t.Errorf("auxiliary test %#x: the driver would take it for a port", got)
	}
}

// TestKeyboardIsSilent: atkbd gives up at once, since a timeout is flagged.
func TestKeyboardIsSilent(t *testing.T) {
	r := newRig()
	r.put(Data, 0xf2) // GETID
	if s := r.get(Command); s&outputFull == 0 || s&timeout == 0 || r.edges != 1 {
		t.Errorf("status %#x, %d interrupts", s, r.edges)
	}
	if got := r.get(Data); got != resend {
		t.Errorf("%#x, want %#x", got, resend)
	}
	if s := r.get(Command); s&(outputFull|timeout) != 0 {
		t.Errorf("status %#x when all is read", s)
	}
}

func TestReset(t *testing.T) {
	cases := []struct {
		name   string
		writes [][2]uint64
		resets int
	}{
		{"pulse of the reset line", [][2]uint64{{Command, 0xfe}}, 1},
		{"pulse of none", [][2]uint64{{Command, 0xff}}, 0},
		{"pulse of another", [][2]uint64{{Command, 0xfd}}, 0},
		{"output port with the line low", [][2]uint64{{Command, writeOutput}, {Data, 0xfe}}, 1},
		{"output port with the line high", [][2]uint64{{Command, writeOutput}, {Data, 0xdf}}, 0},
		{"0xfe to the keyboard", [][2]uint64{{Data, 0xfe}}, 0},
	}
	for _, c := range cases {
		r := newRig()
		for _, w := range c.writes {
			r.put(w[0], byte(w[1]))
		}
		if r.resets != c.resets {
			t.Errorf("%s: %d resets, want %d", c.name, r.resets, c.resets)
		}
	}
}

func TestSnapshot(t *testing.T) {
	a, b := newRig(), newRig()
	a.put(Data, 1)
	a.put(Command, writeControl)
	b.Restore(a.Save())
	b.put(Data, 0x7e)
	if got := b.get(Data); got != resend {
		t.Errorf("what was to be read is %#x", got)
	}
	if got := b.ask(t, readControl); got != 0x7e {
		t.Errorf("the byte of the command before went elsewhere: control %#x", got)
	}
}

func FuzzPorts(f *testing.F) {
	f.Add([]byte{0x80, 0xaa, 0, 0, 0xc0, 0x60})
	f.Fuzz(func(t *testing.T, ops []byte) {
		r := newRig()
		for i := 0; i+1 < len(ops); i += 2 {
			port := uint64(Data)
			if ops[i]&0x80 != 0 {
				port = Command
			}
			if ops[i]&1 != 0 {
				r.put(port, ops[i+1])
			} else {
				r.get(port)
			}
			if n := len(r.Save().Out); n > 1 {
				t.Fatalf("%d bytes to read", n)
			}
		}
	})
}
