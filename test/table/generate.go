// Package table drives the Sentry's table of system calls with programs that it
// makes of bytes: calls whose arguments share descriptors, addresses and
// structures, made by several threads at once, while others rewrite, protect and
// unmap what is pointed to, fork, and send signals. testdata/executor.c runs them
// in a container; sandbox.go watches over it.
//
// A program is good at being bad: pointers lie across the ends of mappings, in
// the kernel's half and in memory that is gone; lengths are off by one or by 2⁶³.
// What must hold is that the Sentry goes on: no panic, no hang, nothing of the
// host's in the container's memory, and an end without remains.
package table

import (
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"strings"
)

// source makes choices of bytes, and when they have run out, of their hash: so
// one changed byte changes all that follows the end, and a few make a whole program.
type source struct {
	bytes []byte
	rest  *rand.Rand
}

func newSource(b []byte) *source {
	h := fnv.New64a()
	h.Write(b)
	return &source{b, rand.New(rand.NewPCG(h.Sum64(), 0))}
}

func (s *source) n(limit int) int {
	switch {
	case len(s.bytes) >= 2 && limit > 256:
		v := int(binary.LittleEndian.Uint16(s.bytes))
		s.bytes = s.bytes[2:]
		return v % limit
	case len(s.bytes) >= 1 && limit <= 256:
		v := int(s.bytes[0])
		s.bytes = s.bytes[1:]
		return v % limit
	}
	s.bytes = nil
	return s.rest.IntN(limit)
}

// one is true in one of n cases.
func (s *source) one(n int) bool { return s.n(n) == 0 }

func pick[T any](s *source, of []T) T { return of[s.n(len(of))] }

// Generator knows the calls and their numbers.
type Generator struct {
	numbers  map[string]int
	names    []string // all of them
	families map[string][]rule
	order    []string // of the families
}

// NewGenerator makes one for calls of these names and numbers.
func NewGenerator(numbers map[string]int, names []string) *Generator {
	g := &Generator{numbers: numbers, names: names, families: map[string][]rule{}}
	for _, r := range rules() {
		if g.families[r.family] == nil {
			g.order = append(g.order, r.family)
		}
		g.families[r.family] = append(g.families[r.family], r)
	}
	return g
}

// maker is one program in the making.
type maker struct {
	*Generator
	*source
	calls []rule // what this program is about
	kinds [slots][]string
	ops   []op   // of the thread in the making
	next  uint64 // where in data the next structure goes
	hot   [4]uint64
	depth int
}

// Program makes one of bytes.
func (g *Generator) Program(b []byte) *Program {
	m := &maker{Generator: g, source: newSource(b)}
	for i, kind := range filled {
		m.kinds[i] = []string{kind}
	}
	// Two families meet: their calls share descriptors. Few rules, used often, go deeper than many used once.
	for range 2 {
		family := g.families[pick(m.source, g.order)]
		for range 8 {
			m.calls = append(m.calls, pick(m.source, family))
		}
	}
	for i := range m.hot {
		m.hot[i] = m.place(512)
	}
	p := &Program{Flags: uint32(m.n(8))}
	if m.n(4) != 0 {
		p.Flags &^= flagUser
	}
	for range 1 + m.n(4) {
		m.ops = nil
		for range 6 + m.n(40) {
			m.step()
		}
		p.Threads = append(p.Threads, m.ops)
	}
	return p
}

// inner makes ops of its own.
func (m *maker) inner(steps int) []op {
	outer := m.ops
	m.ops = nil
	m.depth++
	for range steps {
		m.step()
	}
	m.depth--
	ops := m.ops
	m.ops = outer
	return ops
}

// step adds an operation, with what it needs.
func (m *maker) step() {
	switch k := m.n(64); {
	case k < 3 && m.depth < 2:
		m.ops = append(m.ops, fork{m.cloneFlags(), m.result("pid"), m.inner(1 + m.n(6))})
	case k < 5 && m.depth < 2:
		m.ops = append(m.ops, loop{byte(2 + m.n(12)), m.inner(1 + m.n(4))})
	case k < 9:
		m.ops = append(m.ops, rewrite{pick(m.source, []byte{1, 4, 8}), pick(m.source, m.hot[:]) + uint64(m.n(16))*8, m.word(), m.word(), uint16(m.n(64))})
	case k < 11:
		m.ops = append(m.ops, touch{m.pointer()})
	case k < 12:
		m.ops = append(m.ops, strange{byte(m.n(24))})
	case k < 13:
		m.ops = append(m.ops, put{8, data + 8*uint64(m.n(pages*512)), m.word()})
	case k < 16:
		// What is pointed to goes away, or changes its permissions.
		at := data + (fleeting+uint64(m.n(4)))*page
		switch m.n(3) {
		case 0:
			m.constants("munmap", at, page)
		case 1:
			m.constants("mprotect", at, page, uint64(m.n(4)))
		case 2:
			m.constants("mmap", at, page, 3, 0x32, ^uint64(0), 0)
		}
	case k < 18:
		m.any()
	default:
		m.call(pick(m.source, m.calls))
	}
}

// constants is a call of constants.
func (m *maker) constants(name string, args ...uint64) {
	c := call{nr: m.numbers[name], name: name, into: 255}
	for i, a := range args {
		c.args[i].n = a
	}
	m.ops = append(m.ops, c)
}

// any calls anything, with anything.
func (m *maker) any() {
	name := pick(m.source, m.names)
	c := call{nr: m.numbers[name], name: name, into: m.result("any")}
	if m.one(16) {
		c.nr, c.name = pick(m.source, []int{335, 400, 470, 511, 600, 1 << 30, -1, 0x40000000 | m.n(512)}), "?"
	}
	for i := range c.args {
		c.args[i] = m.build(pick(m.source, anything))
	}
	m.ops = append(m.ops, c)
}

var anything = []string{"fd", "buf", "len", "word", "pid", "path", "addr", "small", "off"}

func (m *maker) call(r rule) {
	c := call{nr: m.numbers[r.name], name: r.name, into: 255}
	for i, kind := range r.args {
		if m.one(80) {
			kind = pick(m.source, anything)
		}
		c.args[i] = m.build(kind)
	}
	if r.gives != "" {
		c.into = m.result(r.gives)
	}
	if r.name == "rt_sigreturn" || m.one(100) {
		sp := value{n: m.pointer()}
		if r.name == "rt_sigreturn" && m.n(4) != 0 {
			sp.n = m.frame()
		}
		c.stack = &sp
	}
	m.ops = append(m.ops, c)
}

// result is a slot for what a call returns.
func (m *maker) result(kind string) byte {
	i := len(filled) + m.n(results-len(filled))
	m.kinds[i] = append(m.kinds[i], kind)
	return byte(i)
}

// of is a slot that may hold a kind.
func (m *maker) of(kind string) value {
	var those []byte
	for i, kinds := range m.kinds {
		for _, k := range kinds {
			if k == kind || kind == "socket" && (k == "unix" || k == "inet" || k == "netlink") {
				those = append(those, byte(i))
				break
			}
		}
	}
	if len(those) == 0 {
		return m.word()
	}
	return value{kind: slot, slot: pick(m.source, those)}
}

// fd is a descriptor, mostly of the kind, sometimes of another or none.
func (m *maker) fd(kind string) value {
	switch k := m.n(32); {
	case k < 1:
		return value{n: pick(m.source, numbers)}
	case k < 2:
		return value{n: uint64(m.n(40))}
	case k < 8 || kind == "":
		return value{kind: slot, slot: byte(m.n(results))}
	}
	return m.of(kind)
}

// place is room for a structure: in a page of its own part, in shared memory, or
// at the end of a page behind which nothing is.
func (m *maker) place(size uint64) uint64 {
	size = (size + 7) &^ 7
	switch m.n(16) {
	case 0:
		return data + uint64(unmapped)*page - size + uint64(m.n(3))*4 // the last page of those that go away
	case 1:
		return data + (readOnly)*page - size + uint64(m.n(3)) // ends in what cannot be written
	case 2:
		return data + (fleeting+uint64(m.n(4)))*page + uint64(m.n(8))*512
	case 3:
		return data + (none)*page - min(size, 64) // ends in what cannot be read
	}
	m.next += size
	if m.next+size > 32*page {
		m.next = 0
	}
	return data + m.next
}

// pointer is an address: good, at an edge, or none.
func (m *maker) pointer() uint64 {
	switch m.n(48) {
	case 0:
		return pick(m.source, numbers)
	case 1:
		return pick(m.source, []uint64{0xffff800000000000, 0xffffffffff600000, 0x7fffffffe000, 0x7ffffffff000, 0x7ffffffffffff, 0x800000000000, 0xdead000000000000, 0x400000, 0xffffffff81000000})
	case 2:
		return data + uint64(m.n(pages))*page
	case 3:
		return data + uint64(1+m.n(pages))*page - uint64(1+m.n(16))
	case 4:
		return data + (copied+uint64(m.n(8)))*page + uint64(m.n(4096))
	case 5, 6:
		return data + (fleeting+uint64(m.n(4)))*page + uint64(m.n(64))*64
	case 7, 8, 9:
		return pick(m.source, m.hot[:]) + uint64(m.n(4))*64
	}
	return data + uint64(m.n(32))*page + uint64(m.n(512))*8
}

// word is any value.
func (m *maker) word() value {
	switch m.n(6) {
	case 0:
		return value{n: m.pointer()}
	case 1:
		return value{kind: slot, slot: byte(m.n(results))}
	case 2:
		return value{n: uint64(m.n(64))}
	case 3:
		return value{n: 1 << m.n(64)}
	}
	return value{n: pick(m.source, numbers)}
}

func (m *maker) small() value {
	if m.one(12) {
		return value{n: pick(m.source, numbers)}
	}
	return value{n: uint64(m.n(9))}
}

func (m *maker) cloneFlags() value {
	const sigchld = 17
	if m.n(2) == 0 {
		return value{n: sigchld}
	}
	v := m.bits(flags["clone"])
	if m.n(8) == 0 {
		v |= 0x10f00 // a thread
	}
	if m.n(4) != 0 {
		v &^= 0x00400000 | 0x00004000
	}
	return value{n: v | sigchld}
}

func (m *maker) bits(of []uint64) (v uint64) {
	for range m.n(3) {
		v |= pick(m.source, of)
	}
	if m.one(32) {
		v |= 1 << m.n(64)
	}
	return v
}

// structure stores words of size bytes one behind the other and gives their
// address: in a hot place one time in three, where others rewrite it.
func (m *maker) structure(size byte, words ...value) value {
	if m.one(40) {
		return value{n: m.pointer()}
	}
	at := m.place(uint64(size) * uint64(len(words)))
	if m.one(3) && int(size)*len(words) <= 256 {
		at = pick(m.source, m.hot[:])
	}
	for i, w := range words {
		m.ops = append(m.ops, put{size, at + uint64(i)*uint64(size), w})
	}
	return value{n: at}
}

// raw stores bytes.
func (m *maker) raw(b []byte) value {
	if m.one(24) {
		return value{n: m.pointer()}
	}
	at := m.place(uint64(len(b)))
	m.ops = append(m.ops, fill{at, b})
	return value{n: at}
}

func (m *maker) text(s string) value {
	switch {
	case m.one(60):
		s = strings.Repeat("a", pick(m.source, []int{254, 255, 256, 4095, 4096, 5000}))
	case m.one(60):
		return m.raw([]byte(s)) // whatever follows
	case m.one(60):
		s += "/" + pick(m.source, paths)
	}
	return m.raw(append([]byte(s), 0))
}

func values(words ...uint64) (vs []value) {
	for _, w := range words {
		vs = append(vs, value{n: w})
	}
	return vs
}

// build makes an argument of a kind, with the operations that store what it points to.
func (m *maker) build(kind string) value {
	kind, which, _ := strings.Cut(kind, ".")
	if texts[kind] != nil {
		return m.text(pick(m.source, texts[kind]))
	}
	switch kind {
	case "fd", "id":
		if kind == "id" && which == "" {
			return value{n: pick(m.source, []uint64{0, 0, 1000, 1000, 1, 65534, 1<<32 - 1, 1 << 31})}
		}
		return m.fd(which)
	case "f":
		if which == "open" && m.n(3) != 0 {
			return value{n: pick(m.source, choices["openlike"])}
		}
		return value{n: m.bits(flags[which])}
	case "e":
		if m.one(40) {
			return m.word()
		}
		return value{n: pick(m.source, choices[which])}
	case "n":
		n := uint64(0)
		for _, c := range which {
			n = n*10 + uint64(c-'0')
		}
		if m.one(24) {
			return m.word()
		}
		return value{n: uint64(m.n(int(n)))}
	case "at":
		if m.n(6) != 0 {
			return value{n: 1<<64 - 100} // AT_FDCWD
		}
		return m.fd("dir")
	case "path":
		if m.n(2) == 0 {
			return m.text(pick(m.source, paths[:plain]))
		}
		return m.text(pick(m.source, paths))
	case "context":
		return value{kind: loaded, n: contextAt}
	case "contextp":
		return value{n: contextAt}
	case "buf":
		return value{n: m.pointer()}
	case "len":
		if m.n(3) != 0 {
			return value{n: uint64(m.n(600))}
		}
		return value{n: pick(m.source, numbers)}
	case "off":
		if m.n(2) == 0 {
			return value{n: uint64(m.n(4 * page))}
		}
		return value{n: pick(m.source, numbers)}
	case "pageoff":
		if m.n(8) == 0 {
			return value{n: pick(m.source, numbers)}
		}
		return value{n: uint64(m.n(5)) * page}
	case "offp":
		if m.n(2) == 0 {
			return value{}
		}
		return m.structure(8, m.build("off"))
	case "lenp":
		return m.structure(4, m.small(), m.small())
	case "mode":
		return value{n: pick(m.source, []uint64{0o644, 0o777, 0, 0o4755, 0o100644, 0o10644, 0o20666, 0o60666, 0o140777, 0o40755, 1<<32 - 1})}
	case "count":
		return value{n: pick(m.source, []uint64{1, 2, 2, 3, 4, 0, 1024, 1025, 1<<64 - 1})}
	case "word":
		return m.word()
	case "small":
		return m.small()
	case "ms":
		return value{n: pick(m.source, []uint64{0, 0, 1, 5, 20, 1<<64 - 1, 1<<31 - 1})}
	case "addr":
		switch m.n(8) {
		case 0:
			return value{n: m.pointer()}
		case 1:
			return m.of("addr")
		case 2:
			return value{}
		case 3, 4:
			return value{n: data + uint64(m.n(pages))*page}
		}
		return value{n: holes + uint64(m.n(64))*page}
	case "maplen":
		if m.n(6) == 0 {
			return value{n: pick(m.source, append([]uint64{2 << 20, 4 << 20, 1 << 30, 1 << 40, 1 << 46, 1 << 47}, numbers...))}
		}
		return value{n: uint64(1+m.n(16)) * page}
	case "pid":
		switch m.n(8) {
		case 0:
			return m.small()
		case 1:
			return value{n: pick(m.source, []uint64{0, 1, 1<<64 - 1, 1<<64 - 2, 1 << 22, 1 << 31})}
		case 2, 3:
			return m.of("pid")
		}
		return value{kind: identity, slot: byte(m.n(3))}
	case "sig":
		if m.one(3) {
			return value{n: uint64(m.n(66))}
		}
		return value{n: pick(m.source, []uint64{10, 12, 14, 17, 18, 28, 34, 64, 13, 11, 19, 20, 21, 5, 0})}
	}
	return m.pointed(kind)
}
