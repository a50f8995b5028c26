package boot

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"bulkhead/virtio"

	"golang.org/x/sys/unix"
)

// ram is guest memory from 0, and from 4 GiB. Nothing is allocated for it before it is touched.
type ram struct{ below, above []byte }

const mib = 1 << 20

func newRAM(t testing.TB, below, above uint64) *ram {
	t.Helper()
	pages := func(n uint64) []byte {
		if n == 0 {
			return nil
		}
		b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			t.Fatalf("map %d MiB: %v", n>>20, err)
		}
		t.Cleanup(func() { _ = unix.Munmap(b) })
		return b
	}
	return &ram{pages(below), pages(above)}
}

func (m *ram) Slice(addr virtio.Addr, n uint64) ([]byte, error) {
	b, at := m.below, uint64(addr)
	if at >= top {
		b, at = m.above, at-top
	}
	if at > uint64(len(b)) || n > uint64(len(b))-at {
		return nil, fmt.Errorf("%d bytes at %#x are not RAM", n, uint64(addr))
	}
	return b[at:][:n], nil
}

// at is n bytes of memory that must be there.
func (m *ram) at(t testing.TB, addr, n uint64) []byte {
	t.Helper()
	b, err := m.Slice(virtio.Addr(addr), n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// part is a piece of a test kernel: content at off in the file goes to addr.
type part struct {
	kind, off, addr, inMemory uint64
	content                   []byte
}

func load(off, addr uint64, content []byte, bss uint64) part {
	return part{ptLoad, off, addr, uint64(len(content)) + bss, content}
}

// vmlinuxOf is an ELF file with parts and an entry point.
func vmlinuxOf(entry uint64, parts ...part) []byte {
	b := make([]byte, ehSize+len(parts)*phSize)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], elfExec)
	le.PutUint16(b[18:], elfX86)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], entry)
	le.PutUint64(b[32:], ehSize)
	le.PutUint16(b[54:], phSize)
	le.PutUint16(b[56:], uint16(len(parts)))
	for i, p := range parts {
		ph := b[ehSize+i*phSize:]
		le.PutUint32(ph, uint32(p.kind))
		le.PutUint64(ph[8:], p.off)
		le.PutUint64(ph[24:], p.addr)
		le.PutUint64(ph[32:], uint64(len(p.content)))
		le.PutUint64(ph[40:], p.inMemory)
	}
	for _, p := range parts {
		if end := int(p.off) + len(p.content); end > len(b) {
			b = append(b, make([]byte, end-len(b))...)
		}
		copy(b[p.off:], p.content)
	}
	return b
}

// note is an ELF note; value has 4 or 8 bytes.
func note(owner string, kind uint32, value []byte) []byte {
	b := le.AppendUint32(nil, uint32(len(owner)))
	b = le.AppendUint32(b, uint32(len(value)))
	b = le.AppendUint32(b, kind)
	for _, v := range [][]byte{[]byte(owner), value} {
		b = append(b, v...)
		b = append(b, make([]byte, -len(b)&3)...)
	}
	return b
}

func pvhNote(entry uint64) []byte { return note(noteOwner, noteEntry, le.AppendUint64(nil, entry)) }

const (
	port    = 0xf4
	entry32 = 0x100_0000
	entry64 = 0x100_0100
	bssSize = 3 * mib
)

// The test kernel writes the first byte of its command line to port 0xf4, or 0xff
// if it was not entered as the protocol says.
var (
	code32 = []byte{
		0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33, // cmpl $0x336ec578,(%ebx)
		0x75, 0x08, // jne fail
		0x8b, 0x43, 0x18, // mov 0x18(%ebx),%eax
		0x8a, 0x00, // mov (%eax),%al
		0xe6, port, // out %al,$0xf4
		0xf4,       // hlt
		0xb0, 0xff, // fail: mov $0xff,%al
		0xe6, port, // out %al,$0xf4
	}
	code64 = []byte{
		0x81, 0xbe, 0x02, 0x02, 0x00, 0x00, 'H', 'd', 'r', 'S', // cmpl $"HdrS",0x202(%rsi)
		0x75, 0x0f, // jne fail
		0x8b, 0x86, 0x28, 0x02, 0x00, 0x00, // mov 0x228(%rsi),%eax
		0x48, 0x8d, 0x40, 0x00, // lea 0(%rax),%rax; in 32-bit mode dec %eax first
		0x8a, 0x00, // mov (%rax),%al
		0xe6, port, // out %al,$0xf4
		0xf4,       // hlt
		0xb0, 0xff, // fail: mov $0xff,%al
		0xe6, port, // out %al,$0xf4
	}
)

// testKernel has both entry points, data, a .bss and its note in a segment, as Linux has.
func testKernel(data []byte) []byte {
	code := append(append(make([]byte, 0, 512), code32...), make([]byte, 0x100-len(code32))...)
	code = append(code, code64...)
	n := pvhNote(entry32)
	code = append(code, make([]byte, -len(code)&3)...)
	at := uint64(len(code))
	code = append(code, n...)
	return vmlinuxOf(entry64,
		load(0x1000, entry32, code, 0),
		load(0x2000, entry32+0x2000, data, bssSize),
		part{ptNote, 0x1000 + at, entry32 + at, uint64(len(n)), n})
}

// write puts a kernel into a file and opens it.
func write(t testing.TB, b []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("vmlinuz", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "vmlinuz")
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f
}

func mustOpen(t testing.TB, b []byte) *Image {
	t.Helper()
	i, err := Open(write(t, b))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func mustLoad(t testing.TB, i *Image, m *ram, p Params) Entry {
	t.Helper()
	if p.Map == nil {
		p.Map = Map(uint64(len(m.below)), uint64(len(m.above)))
	}
	e, err := i.Load(m, p)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func initrd(parts ...string) (all []Part) {
	for i, p := range parts {
		all = append(all, Part{strings.NewReader(p), int64(len(p)), fmt.Sprintf("part %d", i)})
	}
	return all
}

var someParams = Params{Cmdline: "quiet console=ttyS0", RSDP: 0xe0000, Initrd: initrd("07070", "other")}

func TestPVH(t *testing.T) {
	m := newRAM(t, 64*mib, 16*mib)
	e := mustLoad(t, mustOpen(t, testKernel([]byte("data"))), m, someParams)
	want := Entry{PVH, entry32, startAt, Span{entry32, entry32 + 0x2004 + bssSize}, Span{64*mib - 4096, 64*mib - 4096 + 13}}
	if e != want {
		t.Errorf("got %+v\nwant %+v", e, want)
	}
	info := m.at(t, e.Info, startSize)
	list, cmdline, table := le.Uint64(info[16:]), le.Uint64(info[24:]), le.Uint64(info[40:])
	if magic, version, modules := le.Uint32(info), le.Uint32(info[4:]), le.Uint32(info[12:]); magic != startMagic || version != 1 || modules != 1 {
		t.Errorf("hvm_start_info: magic %#x, version %d, %d modules", magic, version, modules)
	}
	if rsdp := le.Uint64(info[32:]); rsdp != 0xe0000 {
		t.Errorf("RSDP %#x", rsdp)
	}
	if got := m.at(t, cmdline, 20); string(got) != "quiet console=ttyS0\x00" {
		t.Errorf("command line %q", got)
	}
	module := m.at(t, list, 32)
	if got := m.at(t, le.Uint64(module), le.Uint64(module[8:])); string(got) != "07070\x00\x00\x00other" {
		t.Errorf("initrd %q", got)
	}
	rows := [][3]uint64{{0, ebdaAt, 1}, {ebdaAt, 0x60400, 2}, {mib, 63 * mib, 1}, {top, 16 * mib, 1}}
	if n := le.Uint32(info[48:]); int(n) != len(rows) {
		t.Fatalf("%d rows in the memory map", n)
	}
	for i, row := range rows {
		b := m.at(t, table+24*uint64(i), 24)
		if got := [3]uint64{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])}; got != row {
			t.Errorf("row %d of the memory map: %#x, want %#x", i, got, row)
		}
	}
	if got := m.at(t, entry32+0x2000, 5); string(got) != "data\x00" {
		t.Errorf("data %q", got)
	}
}

func TestLinux64(t *testing.T) {
	m := newRAM(t, 64*mib, 16*mib)
	p := someParams
	p.Protocol, p.Seed = Linux64, []byte("seed")
	e := mustLoad(t, mustOpen(t, testKernel(nil)), m, p)
	if e.RIP != entry64 || e.Info != paramsAt || e.Protocol != Linux64 {
		t.Errorf("entry %+v", e)
	}
	bp := m.at(t, e.Info, 4096)
	if got := m.at(t, uint64(le.Uint32(bp[hdrCmdline:])), 20); string(got) != "quiet console=ttyS0\x00" {
		t.Errorf("command line %q", got)
	}
	image := uint64(le.Uint32(bp[hdrImage:])) | uint64(le.Uint32(bp[bpImageHigh:]))<<32
	if got := m.at(t, image, uint64(le.Uint32(bp[hdrImageSize:]))); string(got) != "07070\x00\x00\x00other" {
		t.Errorf("initrd %q", got)
	}
	if bp[0x1ef] != 0 {
		t.Error("the sentinel is set: Linux would clear what follows")
	}
	if le.Uint64(bp[bpRSDP:]) != 0xe0000 || bp[hdrLoader] != 0xff || !isBzImage(bp) || bp[bpE820Entries] != 4 {
		t.Errorf("boot_params % x", bp[:hdrEnd])
	}
	last := bp[bpE820+3*e820Size:]
	if le.Uint64(last) != top || le.Uint64(last[8:]) != 16*mib || le.Uint32(last[16:]) != 1 {
		t.Errorf("last row of the memory map % x", last[:e820Size])
	}
	data := m.at(t, le.Uint64(bp[hdrSetupData:]), 16+4)
	if next, kind, n := le.Uint64(data), le.Uint32(data[8:]), le.Uint32(data[12:]); next != 0 || kind != 9 || n != 4 || string(data[16:]) != "seed" {
		t.Errorf("setup_data % x", data)
	}
	checkTables(t, m, e)
}

// TestSeed: without one there is no list, and a longer one than there is room for is refused.
func TestSeed(t *testing.T) {
	m, p := newRAM(t, 64*mib, 0), someParams
	p.Protocol, p.Seed = Linux64, nil
	mustLoad(t, mustOpen(t, testKernel(nil)), m, p)
	if at := le.Uint64(m.at(t, paramsAt, 4096)[hdrSetupData:]); at != 0 {
		t.Errorf("setup_data at %#x without a seed", at)
	}
	p.Seed, p.Map = make([]byte, seedLimit+1), Map(64*mib, 0)
	if _, err := mustOpen(t, testKernel(nil)).Load(newRAM(t, 64*mib, 0), p); err == nil || !strings.Contains(err.Error(), "65 bytes") {
		t.Errorf("a seed of 65 bytes: %v", err)
	}
}

// checkTables walks to the first and last page of each GiB, as a CPU does.
func checkTables(t *testing.T, m *ram, e Entry) {
	t.Helper()
	for gib := range uint64(4) {
		for _, addr := range []uint64{gib << 30, (gib+1)<<30 - 1} {
			table := uint64(tablesAt)
			for _, shift := range []int{39, 30, 21} {
				entry := le.Uint64(m.at(t, table+addr>>shift&511*8, 8))
				if entry&(present|writable) != present|writable {
					t.Fatalf("%#x is not mapped, or not for writing: entry %#x", addr, entry)
				}
				table = entry &^ 0xfff
				if entry&large != 0 {
					if shift != 21 || table != addr&^(2*mib-1) {
						t.Errorf("%#x is mapped to %#x by an entry for bit %d", addr, table, shift)
					}
				}
			}
		}
	}
}

// TestBzImageHeader: boot_params has the setup header that the image came with.
func TestBzImageHeader(t *testing.T) {
	m := newRAM(t, 64*mib, 0)
	p := someParams
	p.Protocol = Linux64
	mustLoad(t, mustOpen(t, bzImageOf(t, "gzip", testKernel(nil))), m, p)
	bp := m.at(t, paramsAt, 4096)
	if v := le.Uint16(bp[hdrVersion:]); v != 0x20f {
		t.Errorf("boot_params has version %#x, the image 0x20f", v)
	}
	if got := le.Uint32(bp[0x260:]); got != 0x1234000 {
		t.Errorf("init_size %#x is not the image's", got)
	}
}

func TestPlaceInitrd(t *testing.T) {
	const gib = 1 << 30
	for _, row := range []struct {
		name         string
		below, above uint64
		protocol     Protocol
		wrap         *bzImage
		size         uint64
		want         uint64 // start; 0: refused
	}{
		{"highest page", 256 * mib, 0, PVH, nil, 5000, 256*mib - 8192},
		{"below the hole, though there is room above 4 GiB", 3 * gib, 3 * gib, Linux64, nil, 4096, 3*gib - 4096},
		{"exactly what is left", 256 * mib, 0, PVH, nil, 256*mib - 0x1303000, 0x1303000},
		{"a byte more", 256 * mib, 0, PVH, nil, 256*mib - 0x1303000 + 1, 0},
		{"below the kernel, if there is more", 20 * mib, 0, PVH, nil, 12 * mib, 4 * mib},
		{"above 4 GiB, where the protocol allows", 256 * mib, gib, Linux64, nil, 512 * mib, top + 512*mib},
		{"not with PVH", 256 * mib, gib, PVH, nil, 512 * mib, 0},
		{"nor an older bzImage", 256 * mib, gib, Linux64, wrapped(0x7fffffff, false), 512 * mib, 0},
		{"below the bzImage's limit", 3 * gib, 0, Linux64, wrapped(0x7fffffff, false), 4096, 2*gib - 4096},
		{"a limit that the flag overrules", 3 * gib, 0, Linux64, wrapped(0x7fffffff, true), 4096, 3*gib - 4096},
	} {
		l := loader{image: &Image{wrap: row.wrap}, Params: Params{Map: Map(row.below, row.above)}}
		l.entry.Protocol, l.entry.Kernel = row.protocol, Span{0x1000000, 0x1302004}
		got, err := l.place(row.size)
		if row.want == 0 {
			if err == nil || !strings.Contains(err.Error(), "more memory") {
				t.Errorf("%s: got %#x, %v", row.name, got, err)
			}
			continue
		}
		if want := (Span{row.want, row.want + row.size}); err != nil || got != want {
			t.Errorf("%s: got %#x, want %#x (%v)", row.name, got, want, err)
		}
	}
}

func wrapped(limit uint32, above4G bool) *bzImage {
	b := &bzImage{above4G: above4G, header: make([]byte, hdrEnd-hdrSetupSects)}
	le.PutUint32(b.header[hdrInitrdMax-hdrSetupSects:], limit)
	return b
}

// BenchmarkLoad is a kernel of 10 MB and new memory of 256 MiB each time, as a machine has it.
func BenchmarkLoad(b *testing.B) {
	file := write(b, testKernel(code(b, 10_000_000)))
	b.SetBytes(10_000_000)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Ftruncate(fd, 256*mib); err != nil {
			b.Fatal(err)
		}
		pages, err := unix.Mmap(fd, 0, 256*mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		i, err := Open(file)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := i.Load(&ram{below: pages}, Params{Map: Map(256*mib, 0)}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = unix.Munmap(pages)
		_ = unix.Close(fd)
		b.StartTimer()
	}
}
