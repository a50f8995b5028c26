package memory

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// The model keeps one number a page: what a load of its first eight bytes gives.
type model struct {
	t      testing.TB
	pick   func(n int) int // below n
	a      *Arena
	spaces []*modelSpace
	files  []*modelObject
	log    []string
}

type modelObject struct {
	o    *Object
	vals map[uint64]uint64
	size uint64 // pages
}

type modelSpace struct {
	s     *Space
	pages map[uint64]modelPage
}

type modelPage struct {
	prot platform.Access
	file *modelObject // nil: anonymous
	at   uint64       // page of the file
	priv bool
	own  bool // val is the page's, not the file's
	val  uint64
}

// Pages where the model maps: both sides of a border between leaves.
const (
	modelFirst = 0x40000*hugePages - 60
	modelPages = 120
)

func (m *model) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	tail := m.log[max(0, len(m.log)-60):]
	for _, l := range tail {
		m.t.Log(l)
	}
	m.t.Fatalf(format, args...)
}

func (m *model) run(steps int) {
	for range 3 {
		f := &modelObject{o: NewObject(m.a), vals: map[uint64]uint64{}, size: 64}
		f.o.Truncate(f.size * PageSize)
		for i := uint64(0); i < f.size; i += 3 {
			m.fileWrite(f, i, uint64(m.pick(1000))+1)
		}
		m.files = append(m.files, f)
	}
	m.spaces = []*modelSpace{{newTestSpace(m.t, m.a), map[uint64]modelPage{}}}
	ops := []func(*modelSpace){m.mapSome, m.mapSome, m.unmap, m.protect, m.remap, m.fork, m.exit,
		m.write, m.write, m.write, m.read, m.read, m.dontNeed, m.truncate, m.punch, m.pin}
	for range steps {
		ms := m.spaces[m.pick(len(m.spaces))]
		ops[m.pick(len(ops))](ms)
		if m.pick(16) == 0 {
			m.check()
		}
	}
	m.check()
	for _, ms := range m.spaces {
		ms.s.Release()
	}
	for _, f := range m.files {
		f.o.Unref()
	}
}

func (m *model) fileWrite(f *modelObject, page, v uint64) {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], v)
	if _, err := f.o.WriteAt(Buffers{b[:]}, page*PageSize); err != nil {
		m.fail("write file: %v", err)
	}
	f.vals[page] = v
}

func (m *model) span() (lo, n uint64) {
	lo = modelFirst + uint64(m.pick(modelPages-1))
	return lo, 1 + uint64(m.pick(min(40, modelFirst+modelPages-int(lo))))
}

func (m *model) prot() platform.Access {
	return []platform.Access{0, platform.Read, rw, rw, rw, rw | platform.Exec}[m.pick(6)]
}

func (m *model) mapSome(ms *modelSpace) {
	lo, n := m.span()
	r := MapRequest{At: addr(lo), Length: n * PageSize, Fixed: true, Prot: m.prot(),
		Shared: m.pick(3) == 0, Populate: m.pick(8) == 0}
	p := modelPage{prot: r.Prot, priv: !r.Shared}
	switch {
	case m.pick(2) == 0:
		// The last file is mapped privately only, and not changed: when a private
		// copy is taken is not specified.
		p.file = m.files[m.pick(2)]
		if p.priv {
			p.file = m.files[2]
		}
		p.at = uint64(m.pick(int(p.file.size) + 1))
		r.Object, r.Offset = p.file.o, p.at*PageSize
	case r.Shared:
		p.file = &modelObject{vals: map[uint64]uint64{}, size: n}
	default:
		p.own = true
	}
	m.note("%p map %#x+%d prot %v shared %v file %v at %d", ms.s, lo, n, r.Prot, r.Shared, p.file != nil, p.at)
	mapAt(m.t, ms.s, r)
	for i := range n {
		ms.pages[lo+i] = p
		if p.file != nil {
			p.at++
		}
	}
}

func (m *model) unmap(ms *modelSpace) {
	lo, n := m.span()
	m.note("%p unmap %#x+%d", ms.s, lo, n)
	if err := ms.s.Unmap(addr(lo), n*PageSize); err != nil {
		m.fail("unmap: %v", err)
	}
	for i := range n {
		delete(ms.pages, lo+i)
	}
}

func (m *model) protect(ms *modelSpace) {
	lo, n := m.span()
	prot := m.prot()
	m.note("%p protect %#x+%d %v", ms.s, lo, n, prot)
	var want error
	for i := range n {
		p, ok := ms.pages[lo+i]
		if !ok {
			want = unix.ENOMEM
			break
		}
		p.prot = prot
		ms.pages[lo+i] = p
	}
	if err := ms.s.Protect(addr(lo), n*PageSize, prot); err != want {
		m.fail("protect: %v, want %v", err, want)
	}
}

func (m *model) remap(ms *modelSpace) {
	lo, n := m.span()
	size := 1 + uint64(m.pick(40))
	to := uint64(0)
	fixed := m.pick(2) == 0
	if fixed {
		to = modelFirst + uint64(m.pick(modelPages))
	}
	m.note("%p remap %#x+%d size %d to %#x", ms.s, lo, n, size, to)
	at, err := ms.s.Remap(addr(lo), n*PageSize, size*PageSize, true, fixed, false, addr(to))
	overlaps := fixed && lo < to+size && to < lo+n
	if overlaps != (err == unix.EINVAL) {
		m.fail("remap: %v with overlap %v", err, overlaps)
	}
	if overlaps {
		return
	}
	if _, ok := ms.pages[lo]; !ok {
		if err != unix.EFAULT {
			m.fail("remap of nothing: %v", err)
		}
		return
	}
	if fixed {
		for i := range size {
			delete(ms.pages, to+i)
		}
	}
	for i := size; i < n; i++ {
		delete(ms.pages, lo+i)
	}
	if err != nil {
		if err != unix.EFAULT { // the range passes the area's end
			m.fail("remap: %v", err)
		}
		return
	}
	got := map[uint64]modelPage{}
	last := modelPage{}
	for i := range size {
		p, ok := ms.pages[lo+i]
		if i < n && !ok {
			continue // shrinking in place looks at no holes
		}
		if i >= n {
			p = last
			p.at++
			p.own, p.val = p.file == nil, 0
		}
		last = p
		got[vpn(at)+i] = p
		if i < n {
			delete(ms.pages, lo+i)
		}
	}
	for v, p := range got {
		ms.pages[v] = p
	}
}

func (m *model) fork(ms *modelSpace) {
	if len(m.spaces) > 4 {
		return
	}
	s, err := ms.s.Fork()
	if err != nil {
		m.fail("fork: %v", err)
	}
	m.note("%p fork: %p", ms.s, s)
	c := &modelSpace{s, map[uint64]modelPage{}}
	for v, p := range ms.pages {
		c.pages[v] = p
	}
	m.spaces = append(m.spaces, c)
}

func (m *model) exit(ms *modelSpace) {
	if len(m.spaces) == 1 {
		return
	}
	m.note("%p exit", ms.s)
	for i, o := range m.spaces {
		if o == ms {
			m.spaces = append(m.spaces[:i], m.spaces[i+1:]...)
			break
		}
	}
	ms.s.Release()
}

// expect says what an access to page v gives.
func (ms *modelSpace) expect(v uint64, want platform.Access) (uint64, error) {
	p, ok := ms.pages[v]
	switch {
	case !ok:
		return 0, unix.EFAULT
	case p.prot == 0, want == platform.Write && p.prot&platform.Write == 0:
		return 0, unix.EACCES
	case p.own:
		return p.val, nil
	case p.at >= p.file.size:
		return 0, unix.ENXIO
	}
	return p.file.vals[p.at], nil
}

func (m *model) write(ms *modelSpace) {
	v := modelFirst + uint64(m.pick(modelPages))
	val := uint64(m.pick(1000)) + 1
	_, want := ms.expect(v, platform.Write)
	var err error
	if m.pick(2) == 0 {
		err = store(ms.s, addr(v), val)
	} else {
		var b [8]byte
		binary.NativeEndian.PutUint64(b[:], val)
		_, err = ms.s.Write(addr(v), b[:])
		if want != nil {
			want = unix.EFAULT
		}
	}
	m.note("%p store %#x = %d: %v", ms.s, v, val, err)
	if err != want {
		m.fail("store at %#x: %v, want %v", v, err, want)
	}
	if err == nil {
		m.set(ms, v, val)
	}
}

func (m *model) set(ms *modelSpace, v, val uint64) {
	p := ms.pages[v]
	if p.priv {
		p.own, p.val = true, val
	} else {
		p.file.vals[p.at] = val
	}
	ms.pages[v] = p
}

func (m *model) read(ms *modelSpace) {
	m.readAt(ms, modelFirst+uint64(m.pick(modelPages)), m.pick(2) == 0)
}

func (m *model) readAt(ms *modelSpace, v uint64, byApp bool) {
	val, want := ms.expect(v, platform.Read)
	var got uint64
	var err error
	if byApp {
		got, err = load(ms.s, addr(v))
	} else {
		var b [8]byte
		_, err = ms.s.Read(addr(v), b[:])
		got = binary.NativeEndian.Uint64(b[:])
		if want != nil {
			want = unix.EFAULT
		}
	}
	if err != want || err == nil && got != val {
		m.fail("%p load at %#x (by the application: %v): %d, %v; want %d, %v", ms.s, v, byApp, got, err, val, want)
	}
}

func (m *model) pin(ms *modelSpace) {
	lo, n := m.span()
	want := []platform.Access{platform.Read, platform.Write}[m.pick(2)]
	bufs, release, err := ms.s.Pin(addr(lo), n*PageSize, want)
	if _, bad := ms.expect(lo, want); (bad != nil) != (err != nil) {
		m.fail("pin %#x: %v, want %v", lo, err, bad)
	}
	if err != nil {
		return
	}
	defer release()
	val := uint64(m.pick(1000)) + 1
	m.note("%p pin %#x+%d %v: %d bytes, %d", ms.s, lo, n, want, bufs.Len(), val)
	for i := range n {
		old, bad := ms.expect(lo+i, want)
		if (bad == nil) != (uint64(bufs.Len()) > i*PageSize) {
			m.fail("pin has %d bytes; page %d: %v", bufs.Len(), i, bad)
		}
		if bad != nil {
			return
		}
		var b [8]byte
		part := bufs.Skip(int(i * PageSize))
		if part.CopyIn(b[:]); binary.NativeEndian.Uint64(b[:]) != old {
			m.fail("pinned page %#x has %d, want %d", lo+i, b, old)
		}
		if want == platform.Write {
			binary.NativeEndian.PutUint64(b[:], val)
			part.CopyOut(b[:])
			m.set(ms, lo+i, val)
		}
	}
}

func (m *model) dontNeed(ms *modelSpace) {
	lo, n := m.span()
	m.note("%p dontneed %#x+%d", ms.s, lo, n)
	ms.s.Advise(addr(lo), n*PageSize, unix.MADV_DONTNEED)
	for v := lo; v < lo+n; v++ {
		if p, ok := ms.pages[v]; ok && p.priv {
			p.own, p.val = p.file == nil, 0
			ms.pages[v] = p
		}
	}
}

func (m *model) truncate(*modelSpace) {
	f := m.files[m.pick(2)]
	f.size = uint64(m.pick(80))
	m.note("truncate to %d", f.size)
	f.o.Truncate(f.size * PageSize)
	for at := range f.vals {
		if at >= f.size {
			delete(f.vals, at)
		}
	}
}

func (m *model) punch(*modelSpace) {
	f := m.files[m.pick(2)]
	at, n := uint64(m.pick(80)), uint64(m.pick(20))
	m.note("punch %d+%d", at, n)
	f.o.Punch(at*PageSize, n*PageSize)
	for i := range n {
		delete(f.vals, at+i)
	}
}

// check compares everything, and looks at what the spaces hold.
func (m *model) check() {
	for _, ms := range m.spaces {
		m.checkAreas(ms)
		for v := uint64(modelFirst); v < modelFirst+modelPages; v++ {
			m.readAt(ms, v, v%2 == 0)
		}
	}
}

func (m *model) checkAreas(ms *modelSpace) {
	end, virtual := Addr(0), uint64(0)
	for i, ar := range ms.s.areas {
		if ar.start >= ar.end || ar.start < end {
			m.fail("area %d is [%#x, %#x) behind %#x", i, ar.start, ar.end, end)
		}
		if i > 0 && ms.s.areas[i-1].joins(ar) {
			m.fail("areas at %#x could be one", ar.start)
		}
		end, virtual = ar.end, virtual+ar.size()
		for v := vpn(ar.start); v < vpn(ar.end); v++ {
			if p, ok := ms.pages[v]; !ok || p.prot != ar.prot {
				m.fail("page %#x is %v, want %v, there %v", v, ar.prot, p.prot, ok)
			}
		}
	}
	if virtual != uint64(len(ms.pages))*PageSize || virtual != ms.s.virtual {
		m.fail("%d bytes are mapped, %d counted, want %d pages", virtual, ms.s.virtual, len(ms.pages))
	}
	if n := ms.s.table.has(0, 1<<40); n != uint64(ms.s.table.pages) {
		m.fail("table counts %d pages and has %d", ms.s.table.pages, n)
	}
	for v, p := range ms.s.as.(*fakeSpace).pages {
		ar := ms.s.find(addr(v))
		if ar == nil || p.access&^ar.prot != 0 {
			m.fail("the platform maps page %#x with %v, area %+v", v, p.access, ar)
		}
		if pfn := ms.s.table.get(v); pfn != 0 {
			if &p.host[0] != &m.a.bytes(pfn, 1)[0] {
				m.fail("the platform maps another page at %#x", v)
			}
			if p.access&platform.Write != 0 && !ms.s.table.exclusive(v) {
				m.fail("page %#x is shared and can be written", v)
			}
		} else if ar.private() && p.access&platform.Write != 0 {
			m.fail("page %#x of a file can be written privately", v)
		}
	}
}

func TestModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			a, _ := newTestArena(t, seed%2 == 0, 0)
			r := rand.New(rand.NewPCG(seed, 1))
			(&model{t: t, pick: r.IntN, a: a}).run(400)
		})
	}
}

// TestModelZeros is the model where zeros are shown for as little as four pages, and
// no page is made before a store.
func TestModelZeros(t *testing.T) {
	for _, tune := range []*tuning{&cheapFaults, &dearFaults} {
		was := *tune
		tune.eager, tune.zeros, tune.window = eagerTop, 4, 2
		t.Cleanup(func() { *tune = was })
	}
	looked := 0
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			a, _ := newTestArena(t, seed%2 == 0, 0)
			r := rand.New(rand.NewPCG(seed, 2))
			(&model{t: t, pick: r.IntN, a: a}).run(400)
			if a.zeros.host != nil {
				looked++
			}
		})
	}
	if looked < 50 {
		t.Errorf("%d of 60 runs looked at zeros", looked)
	}
}

func FuzzModel(f *testing.F) {
	f.Add([]byte("\x00\x10\x20\x03\x07\x05\x05\x09\x05\x06\x01\x02\x03"))
	f.Add([]byte("\x01\x00\x28\x02\x00\x05\x08\x01\x02\x08\x02\x05\x04\x01\x02\x03\x09"))
	f.Fuzz(func(t *testing.T, in []byte) {
		a, _ := newTestArena(t, true, 0)
		pick := func(n int) int {
			if len(in) == 0 {
				return 0
			}
			v := int(in[0])
			in = in[1:]
			return v % n
		}
		(&model{t: t, pick: pick, a: a}).run(min(len(in)/3, 500))
	})
}
