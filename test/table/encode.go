package table

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Program is what one run of the executor does: up to eight threads of operations.
type Program struct {
	Flags   uint32
	Threads [][]op
}

// Flags of a program.
const (
	flagUser   = 1 << iota // it runs as user 1000
	flagLocked             // it may lock a MiB
	flagNet                // it has a network namespace of its own
)

// op is one operation; the executor's run interprets it.
type op interface {
	encode(b []byte) []byte
	String() string
}

// value is an argument: a constant, a slot's content, an address in the executor, or a task's number.
type value struct {
	kind byte
	slot byte
	n    uint64
}

const (
	constant = iota
	slot
	function
	slotPlus
	identity // 0: the process, 1: the thread, 2: the parent
	loaded   // what stands at an address
)

func (v value) encode(b []byte) []byte {
	b = append(b, v.kind)
	if v.kind != constant && v.kind != loaded {
		b = append(b, v.slot)
	}
	if v.kind == constant || v.kind == slotPlus || v.kind == loaded {
		b = binary.LittleEndian.AppendUint64(b, v.n)
	}
	return b
}

func (v value) String() string {
	switch v.kind {
	case slot:
		return fmt.Sprintf("s%d", v.slot)
	case function:
		return fmt.Sprintf("code%d", v.slot)
	case slotPlus:
		return fmt.Sprintf("s%d+%#x", v.slot, v.n)
	case loaded:
		return fmt.Sprintf("*%#x", v.n)
	case identity:
		return [...]string{"pid", "tid", "ppid"}[v.slot%3]
	}
	if v.n < 4096 {
		return fmt.Sprint(v.n)
	}
	return fmt.Sprintf("%#x", v.n)
}

type call struct {
	nr    int
	name  string
	into  byte // the slot of its result, 255: none
	args  [6]value
	stack *value // the stack pointer to make it with
}

func (c call) encode(b []byte) []byte {
	if c.stack != nil {
		b = c.stack.encode(append(b, 6))
	} else {
		b = append(b, 1)
	}
	b = append(binary.LittleEndian.AppendUint32(b, uint32(c.nr)), c.into)
	for _, a := range c.args {
		b = a.encode(b)
	}
	return b
}

func (c call) String() string {
	var s []string
	for _, a := range c.args {
		s = append(s, a.String())
	}
	text := fmt.Sprintf("%s(%s)", c.name, strings.Join(s, ", "))
	if c.into != 255 {
		text = fmt.Sprintf("s%d = %s", c.into, text)
	}
	if c.stack != nil {
		text += " on stack " + c.stack.String()
	}
	return text
}

// put stores a number, which the executor survives where there is no memory.
type put struct {
	size byte
	at   uint64
	what value
}

func (p put) encode(b []byte) []byte {
	return p.what.encode(value{n: p.at}.encode(append(b, 2, p.size)))
}
func (p put) String() string { return fmt.Sprintf("*%#x:%d = %v", p.at, p.size, p.what) }

// fill copies bytes.
type fill struct {
	at    uint64
	bytes []byte
}

func (f fill) encode(b []byte) []byte {
	b = value{n: f.at}.encode(append(b, 3))
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(f.bytes))), f.bytes...)
}
func (f fill) String() string { return fmt.Sprintf("*%#x = %q", f.at, f.bytes) }

// fork runs ops in a child made by clone with flags.
type fork struct {
	flags value
	into  byte
	ops   []op
}

func (f fork) encode(b []byte) []byte {
	body := encodeAll(f.ops)
	b = append(f.flags.encode(append(b, 4)), f.into)
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(body))), body...)
}
func (f fork) String() string { return fmt.Sprintf("clone(%v) {%s}", f.flags, show(f.ops)) }

// rewrite stores a and b in turn, while another thread's call reads the place.
type rewrite struct {
	size  byte
	at    uint64
	a, b  value
	times uint16 // sixteens
}

func (r rewrite) encode(b []byte) []byte {
	b = value{n: r.at}.encode(append(b, 5, r.size))
	return binary.LittleEndian.AppendUint16(r.b.encode(r.a.encode(b)), r.times)
}
func (r rewrite) String() string {
	return fmt.Sprintf("%d times *%#x:%d = %v, %v", int(r.times)*16, r.at, r.size, r.a, r.b)
}

// loop repeats ops.
type loop struct {
	times byte
	ops   []op
}

func (l loop) encode(b []byte) []byte {
	body := encodeAll(l.ops)
	b = binary.LittleEndian.AppendUint16(append(b, 7, l.times), uint16(len(body)))
	return append(b, body...)
}
func (l loop) String() string { return fmt.Sprintf("%d times {%s}", l.times, show(l.ops)) }

// touch reads a byte.
type touch struct{ at uint64 }

func (t touch) encode(b []byte) []byte { return value{n: t.at}.encode(append(b, 8)) }
func (t touch) String() string         { return fmt.Sprintf("read *%#x", t.at) }

// strange executes an instruction that no compiler makes.
type strange struct{ which byte }

func (s strange) encode(b []byte) []byte { return append(b, 9, s.which) }
func (s strange) String() string         { return fmt.Sprintf("instruction %d", s.which) }

func encodeAll(ops []op) (b []byte) {
	for _, o := range ops {
		b = o.encode(b)
	}
	return b
}

func show(ops []op) string {
	var s []string
	for _, o := range ops {
		s = append(s, o.String())
	}
	return strings.Join(s, "; ")
}

const programMagic = 0x50474d42

// Encode is the program as the executor reads it: a header of words, then each thread's operations.
func (p *Program) Encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, programMagic)
	b = le.AppendUint32(b, p.Flags)
	b = le.AppendUint32(b, uint32(len(p.Threads)))
	var bodies [][]byte
	for i := range threads {
		var body []byte
		if i < len(p.Threads) {
			body = encodeAll(p.Threads[i])
		}
		bodies = append(bodies, body)
		b = le.AppendUint32(b, uint32(len(body)))
	}
	for _, body := range bodies {
		b = append(b, body...)
	}
	return b
}

// String is the program for a person: a line an operation.
func (p *Program) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "flags %d\n", p.Flags)
	for i, ops := range p.Threads {
		fmt.Fprintf(&b, "thread %d\n", i)
		for _, o := range ops {
			fmt.Fprintf(&b, "\t%v\n", o)
		}
	}
	return b.String()
}
