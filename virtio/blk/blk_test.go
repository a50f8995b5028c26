package blk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/virtio"
	"bulkhead/virtio/ratelimit"
	"bulkhead/virtio/virtiotest"
)

const all = ^uint64(0) // features

// image is a raw file with content.
func image(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pattern(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func open(t testing.TB, path string, o Options) *Device {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func head(kind uint32, sector uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint64(b, sector)
}

func ranges(words ...uint64) []byte { // sector, sectors, flags, …
	var b []byte
	for ; len(words) > 0; words = words[3:] {
		b = binary.LittleEndian.AppendUint64(b, words[0])
		b = binary.LittleEndian.AppendUint32(b, uint32(words[1]))
		b = binary.LittleEndian.AppendUint32(b, uint32(words[2]))
	}
	return b
}

// write sends a request whose only answer is a status.
func write(t testing.TB, d *virtiotest.Driver, kind uint32, sector uint64, data ...[]byte) byte {
	t.Helper()
	answer := d.Send(0, append([][]byte{head(kind, sector)}, data...), []int{1}).Wait()
	if len(answer) != 1 {
		t.Fatalf("kind %d: answer of %d bytes, want 1", kind, len(answer))
	}
	return answer[0]
}

func read(t testing.TB, d *virtiotest.Driver, sector uint64, n int) []byte {
	t.Helper()
	answer := d.Send(0, [][]byte{head(kindIn, sector)}, []int{n, 1}).Wait()
	if len(answer) != n+1 || answer[n] != statusOK {
		t.Fatalf("read %d bytes at sector %d: answer of %d bytes, status %v", n, sector, len(answer), answer[max(0, len(answer)-1):])
	}
	return answer[:n]
}

// TestDivisions reads and writes with the same bytes divided in every manner:
// descriptors mean nothing (§2.7.4.1).
func TestDivisions(t *testing.T) {
	for _, mode := range []struct {
		name    string
		options Options
	}{
		{"cached", Options{}}, {"writethrough", Options{Writethrough: true}}, {"direct", Options{Direct: true}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			want := pattern(64 << 10)
			path := image(t, make([]byte, len(want)))
			device, err := Open(path, mode.options)
			if err != nil && mode.options.Direct {
				t.Skipf("no O_DIRECT in %s (%v): set TMPDIR to a file system that has it", filepath.Dir(path), err)
			} else if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			d := virtiotest.Start(t, device, all)
			for _, cuts := range [][]int{{4096}, {1, 4095}, {511, 2, 3583}, {512, 512, 3072}, {100, 3996}} {
				request := append(head(kindOut, 8), want[4096:8192]...)
				outs := [][]byte{request[:7], request[7:16]}
				for rest := request[16:]; len(cuts) > 0; cuts = cuts[1:] {
					outs, rest = append(outs, rest[:cuts[0]]), rest[cuts[0]:]
				}
				if got := d.Send(0, outs, []int{1}).Wait(); !bytes.Equal(got, []byte{statusOK}) {
					t.Fatalf("write as %d descriptors: %v", len(outs), got)
				}
			}
			if got := contents(t, path)[4096:8192]; !bytes.Equal(got, want[4096:8192]) {
				t.Fatal("the file differs from what was written")
			}
			if s := write(t, d, kindOut, 0, want); s != statusOK {
				t.Fatalf("write it all: status %d", s)
			}
			for _, ins := range [][]int{{4096, 1}, {4097}, {1, 4096}, {1000, 3096, 1}, {511, 1, 512, 3072, 1}} {
				got := d.Send(0, [][]byte{head(kindIn, 16)}, ins).Wait()
				if len(got) != 4097 || got[4096] != statusOK || !bytes.Equal(got[:4096], want[8192:12288]) {
					t.Errorf("read as %v: %d bytes that differ, or no status OK", ins, len(got))
				}
			}
			if got := read(t, d, 0, len(want)); !bytes.Equal(got, want) {
				t.Error("reading all differs")
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	const sectors = 64
	for _, row := range []struct {
		name     string
		options  Options
		features uint64
		out      []byte
		in       int // bytes before the status
		want     byte
	}{
		{"flush", Options{}, all, head(kindFlush, 0), 0, statusOK},
		{"flush of a read-only disk", Options{ReadOnly: true}, all, head(kindFlush, 0), 0, statusOK},
		{"flush, not negotiated", Options{}, 0, head(kindFlush, 0), 0, statusUnsupported},
		{"read nothing", Options{}, all, head(kindIn, 0), 0, statusOK},
		{"read the last sector", Options{}, all, head(kindIn, sectors-1), 512, statusOK},
		{"read past the end", Options{}, all, head(kindIn, sectors-1), 1024, statusIOError},
		{"read behind the end", Options{}, all, head(kindIn, sectors+1), 512, statusIOError},
		{"read at a sector that wraps", Options{}, all, head(kindIn, 1<<64-1), 512, statusIOError},
		{"read at a byte that wraps", Options{}, all, head(kindIn, 1<<55), 512, statusIOError},
		{"read part of a sector", Options{}, all, head(kindIn, 0), 511, statusIOError},
		{"write part of a sector", Options{}, all, append(head(kindOut, 0), 1, 2, 3), 0, statusIOError},
		{"write past the end", Options{}, all, append(head(kindOut, sectors), make([]byte, 512)...), 0, statusIOError},
		{"write with room for data", Options{}, all, append(head(kindOut, 0), make([]byte, 512)...), 100, statusOK},
		{"write to a read-only disk", Options{ReadOnly: true}, all, append(head(kindOut, 0), make([]byte, 512)...), 0, statusIOError},
		{"discard on a read-only disk", Options{ReadOnly: true}, all, append(head(kindDiscard, 0), ranges(0, 1, 0)...), 0, statusIOError},
		{"no such request", Options{}, all, head(77, 0), 10, statusUnsupported},
		{"lifetime, not offered", Options{}, all, head(10, 0), 20, statusUnsupported},
		{"secure erase, not offered", Options{}, all, append(head(14, 0), ranges(0, 1, 0)...), 0, statusUnsupported},
		{"discard, not negotiated", Options{}, 0, append(head(kindDiscard, 0), ranges(0, 1, 0)...), 0, statusUnsupported},
		{"discard", Options{}, all, append(head(kindDiscard, 0), ranges(0, 8, 0)...), 0, statusOK},
		{"discard nothing", Options{}, all, append(head(kindDiscard, 0), ranges(3, 0, 0)...), 0, statusOK},
		{"discard with unmap", Options{}, all, append(head(kindDiscard, 0), ranges(0, 8, 1)...), 0, statusUnsupported},
		{"discard without ranges", Options{}, all, head(kindDiscard, 0), 0, statusIOError},
		{"discard with half a range", Options{}, all, append(head(kindDiscard, 0), ranges(0, 8, 0)[:9]...), 0, statusIOError},
		{"discard past the end", Options{}, all, append(head(kindDiscard, 0), ranges(sectors-1, 2, 0)...), 0, statusIOError},
		{"discard that wraps", Options{}, all, append(head(kindDiscard, 0), ranges(1<<64-1, 2, 0)...), 0, statusIOError},
		{"too many ranges", Options{}, all, append(head(kindDiscard, 0), ranges(make([]uint64, 3*33)...)...), 0, statusIOError},
		{"zeroes, not negotiated", Options{}, 0, append(head(kindWriteZeroes, 0), ranges(0, 1, 0)...), 0, statusUnsupported},
		{"zeroes with a reserved flag", Options{}, all, append(head(kindWriteZeroes, 0), ranges(0, 1, 2)...), 0, statusUnsupported},
		{"zeroes past the limit", Options{}, all, append(head(kindWriteZeroes, 0), ranges(0, maxExtentSectors+1, 0)...), 0, statusIOError},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := image(t, pattern(sectors*sectorSize))
			d := virtiotest.Start(t, open(t, path, row.options), row.features)
			dirty(d.Memory, row.in+1)
			answer := d.Do(0, row.out, row.in+1)
			if len(answer) != row.in+1 {
				t.Fatalf("answer of %d bytes, want %d", len(answer), row.in+1)
			}
			if got := answer[row.in]; got != row.want {
				t.Errorf("status %d, want %d", got, row.want)
			}
			if row.want != statusOK && !bytes.Equal(answer[:row.in], make([]byte, row.in)) {
				t.Error("data of a request that was refused is not zeroes")
			}
			if row.want != statusOK && !bytes.Equal(contents(t, path), pattern(sectors*sectorSize)) {
				t.Error("a request that was refused changed the disk")
			}
		})
	}
}

// dirty fills the place that the next request of n bytes will have.
func dirty(m *virtiotest.Memory, n int) {
	at := m.Alloc(n)
	copy(m.Bytes(at, n), bytes.Repeat([]byte{0xee}, n))
	m.Free(at, n)
}

// TestExtentLimit needs a disk that is larger than one range may be.
func TestExtentLimit(t *testing.T) {
	path := image(t, nil)
	if err := os.Truncate(path, 4*maxExtentSectors*sectorSize); err != nil {
		t.Fatal(err)
	}
	d := virtiotest.Start(t, open(t, path, Options{}), all)
	for n, want := range map[uint64]byte{maxExtentSectors: statusOK, maxExtentSectors + 1: statusIOError} {
		if got := write(t, d, kindDiscard, 0, ranges(8, n, 0)); got != want {
			t.Errorf("discard of %d sectors: status %d, want %d", n, got, want)
		}
	}
}

func TestSerial(t *testing.T) {
	d := virtiotest.Start(t, open(t, image(t, make([]byte, 512)), Options{Serial: "root-7"}), all)
	for _, room := range []int{20, 6, 3, 100} {
		got := d.Do(0, head(kindGetID, 0), room+1)
		want := make([]byte, room+1) // and the status OK
		copy(want[:room], "root-7")
		if !bytes.Equal(got, want) {
			t.Errorf("GET_ID with room for %d: %q, want %q", room, got, want)
		}
	}
}

// TestZeroes looks at the file after discards and zeroes of all kinds.
func TestZeroes(t *testing.T) {
	const size = 1 << 20
	path := image(t, pattern(size))
	spread(t, path, size)
	// A file system may need a block or two for itself.
	if blocks := allocated(t, path); blocks > (size-192<<10)/512+16 {
		t.Errorf("%d sectors are still allocated after a discard of 128 KiB and an unmap of 64", blocks)
	}
}

// spread changes a disk of size bytes that holds pattern(size), and looks at it.
func spread(t *testing.T, path string, size int) {
	t.Helper()
	d := virtiotest.Start(t, open(t, path, Options{}), all)
	for _, request := range [][]byte{
		append(head(kindDiscard, 0), ranges(0, 256, 0)...),
		append(head(kindWriteZeroes, 0), ranges(512, 128, 1, 1024, 16, 0)...),
		append(head(kindWriteZeroes, 0), ranges(2000, 3, 0)...),
	} {
		if got := d.Do(0, request, 1); !bytes.Equal(got, []byte{statusOK}) {
			t.Fatalf("request % x: %v", request, got)
		}
	}
	want := pattern(size)
	for _, e := range [][2]int{{512, 128}, {1024, 16}, {2000, 3}} {
		clear(want[e[0]*512:][:e[1]*512])
	}
	const discarded = 256 * 512 // may read as anything
	if got := read(t, d, 256, 1<<19-discarded); !bytes.Equal(got, want[discarded:1<<19]) {
		t.Error("the first half is not as it should be")
	}
	if got := read(t, d, 1024, 1<<19); !bytes.Equal(got, want[1<<19:]) {
		t.Error("the second half is not as it should be")
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// TestBlockDevice does the same to a block device of the host.
func TestBlockDevice(t *testing.T) {
	const size = 1 << 20
	path := image(t, append(pattern(size), make([]byte, 700)...))
	out, err := exec.Command("losetup", "--find", "--show", path).Output()
	if err != nil {
		t.Skipf("losetup: %v: run as root, where the host has loop devices", err)
	}
	loop := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "--detach", loop).Run()
	t.Run("spread", func(t *testing.T) { spread(t, loop, size) })
	device := open(t, loop, Options{ReadOnly: true})
	if got, want := device.disk().sectors, uint64(size/512+1); got != want || !device.disk().device {
		t.Errorf("a loop device of %d bytes has %d sectors, want %d", size+700, got, want)
	}
}

func TestConfig(t *testing.T) {
	d := open(t, image(t, make([]byte, 1<<20+100)), Options{Queues: 3})
	c := make([]byte, 70)
	d.ReadConfig(0, c)
	for _, row := range []struct {
		name     string
		at, size int
		want     uint64
	}{
		{"capacity", 0, 8, 2048}, {"size_max", 8, 4, 1 << 20}, {"seg_max", 12, 4, 254}, {"blk_size", 20, 4, 512},
		{"physical_block_exp", 24, 1, 3}, {"alignment_offset", 25, 1, 0}, {"min_io_size", 26, 2, 8}, {"opt_io_size", 28, 4, 0},
		{"writeback", 32, 1, 1}, {"num_queues", 34, 2, 3},
		{"max_discard_sectors", 36, 4, 1 << 21}, {"max_discard_seg", 40, 4, 32}, {"discard_sector_alignment", 44, 4, 1},
		{"max_write_zeroes_sectors", 48, 4, 1 << 21}, {"max_write_zeroes_seg", 52, 4, 32}, {"write_zeroes_may_unmap", 56, 1, 1},
		{"past the end", 60, 8, 0},
	} {
		var b [8]byte
		copy(b[:], c[row.at:][:row.size])
		if got := binary.LittleEndian.Uint64(b[:]); got != row.want {
			t.Errorf("%s = %d, want %d", row.name, got, row.want)
		}
		part := make([]byte, row.size)
		d.ReadConfig(uint32(row.at), part)
		if !bytes.Equal(part, c[row.at:][:row.size]) {
			t.Errorf("%s read by itself is % x", row.name, part)
		}
	}
	b := []byte{1, 2}
	if d.ReadConfig(1<<32-1, b); !bytes.Equal(b, []byte{0, 0}) {
		t.Errorf("far past the end: % x, want zeroes", b)
	}
	if n := len(d.Queues()); n != 3 {
		t.Errorf("%d queues, want 3", n)
	}
}

// TestCacheMode follows §5.2.6.2: what a driver that cannot flush has written is durable.
func TestCacheMode(t *testing.T) {
	const both = FeatureFlush | FeatureConfigWCE
	for _, row := range []struct {
		name     string
		through  bool
		features uint64
		set      []byte // to the configuration
		durable  bool
	}{
		{"a driver that flushes", false, FeatureFlush, nil, false},
		{"one that does not", false, 0, nil, true},
		{"one that may choose", false, both, nil, false},
		{"one that chooses writethrough", false, both, []byte{0}, true},
		{"and back", false, both, []byte{1}, false},
		{"a choice that was not negotiated", false, FeatureFlush, []byte{0}, false},
		{"the host's writethrough", true, all, []byte{1}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			device := open(t, image(t, make([]byte, 4096)), Options{Writethrough: row.through})
			d := virtiotest.Start(t, device, row.features)
			d.SetConfig(32, row.set)
			if got := device.durable.Load(); got != row.durable {
				t.Errorf("durable: %v, want %v", got, row.durable)
			}
			if s := write(t, d, kindOut, 0, make([]byte, 512)); s != statusOK {
				t.Errorf("write: status %d", s)
			}
		})
	}
}

// TestDurable looks whether the host still has to write, after each kind of request.
func TestDurable(t *testing.T) {
	const flushes = FeatureFlush | FeatureDiscard | FeatureWriteZeroes
	sector := make([]byte, 4096)
	for _, row := range []struct {
		name     string
		features uint64
		do       func(d *virtiotest.Driver)
		dirty    bool
	}{
		{"a write", flushes, func(d *virtiotest.Driver) { write(t, d, kindOut, 0, sector) }, true},
		{"a write and a flush", flushes, func(d *virtiotest.Driver) {
			write(t, d, kindOut, 0, sector)
			write(t, d, kindFlush, 0)
		}, false},
		{"a durable write", 0, func(d *virtiotest.Driver) { write(t, d, kindOut, 0, sector) }, false},
		{"durable zeroes of part of a page", flushes &^ FeatureFlush, func(d *virtiotest.Driver) {
			write(t, d, kindWriteZeroes, 0, ranges(1, 1, 0))
		}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := image(t, pattern(64<<10))
			device := open(t, path, Options{})
			if err := unix.Fdatasync(device.disk().fd); err != nil {
				t.Fatal(err)
			}
			d := virtiotest.Start(t, device, row.features)
			row.do(d)
			if got := cached(t, device).Dirty > 0; got != row.dirty {
				t.Errorf("pages still to be written: %v, want %v", got, row.dirty)
			}
		})
	}
}

// TestDirect: the page cache stays empty.
func TestDirect(t *testing.T) {
	path := image(t, pattern(64<<10))
	device, err := Open(path, Options{Direct: true})
	if err != nil {
		t.Skipf("no O_DIRECT in %s (%v): set TMPDIR to a file system that has it", filepath.Dir(path), err)
	}
	defer device.Close()
	unix.Fdatasync(device.disk().fd)
	if err := unix.Fadvise(device.disk().fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	d := virtiotest.Start(t, device, all)
	read(t, d, 0, 8192)
	write(t, d, kindOut, 32, make([]byte, 4096))
	if n := cached(t, device).Cache; n > 0 {
		t.Errorf("%d pages are in the page cache", n)
	}
}

// cached is what the host's page cache has of a disk.
func cached(t *testing.T, d *Device) unix.Cachestat_t {
	t.Helper()
	var st unix.Cachestat_t
	if err := unix.Cachestat(uint(d.disk().fd), &unix.CachestatRange{}, &st, 0); err != nil {
		t.Skipf("cachestat: %v: run on Linux 6.5 or newer", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(d.disk().fd, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Skip("files in memory are always to be written: set TMPDIR to a disk")
	}
	return st
}

func TestKeeper(t *testing.T) {
	path := image(t, pattern(8192))
	first := open(t, path, Options{ReadOnly: true})
	first.writeback.Store(false)
	state, err := first.Save()
	if err != nil {
		t.Fatal(err)
	}
	second := open(t, path, Options{ReadOnly: true})
	if err := second.Restore(state); err != nil || second.writeback.Load() {
		t.Errorf("restore: %v, writeback %v", err, second.writeback.Load())
	}
	other := open(t, image(t, make([]byte, 1024)), Options{})
	want := "it has 2 sectors, and had 16 when the snapshot was taken"
	if err := other.Restore(state); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("restore with another disk: %v, want %q", err, want)
	}
	if err := other.Restore(state[:3]); err == nil {
		t.Error("restore from 3 bytes")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	short := image(t, make([]byte, 511))
	locked := image(t, make([]byte, 512))
	open(t, locked, Options{})
	for _, row := range []struct {
		path string
		o    Options
		want string
	}{
		{dir + "/none", Options{}, fmt.Sprintf("disk %s/none: no such file; make one with: truncate -s 1G %s/none", dir, dir)},
		{dir, Options{}, fmt.Sprintf("disk %s: it is a directory; give a raw file or a block device", dir)},
		{dir, Options{ReadOnly: true}, fmt.Sprintf("disk %s: it is a directory; give a raw file or a block device", dir)},
		{fifo, Options{}, fmt.Sprintf("disk %s: it is neither file nor disk; give a raw file or a block device", fifo)},
		{fifo, Options{ReadOnly: true}, fmt.Sprintf("disk %s: it is neither file nor disk; give a raw file or a block device", fifo)},
		{"/dev/null", Options{}, "disk /dev/null: it is neither file nor disk; give a raw file or a block device"},
		{short, Options{}, fmt.Sprintf("disk %s: 511 bytes, shorter than a sector of 512; make it larger with: truncate -s 1G %s", short, short)},
		{locked, Options{}, fmt.Sprintf("disk %s: locked by another machine, or given twice to this one; end that one, or give the disk as read-only to both", locked)},
		{locked, Options{ReadOnly: true}, fmt.Sprintf("disk %s: locked by another machine, or given twice to this one; end that one, or give the disk as read-only to both", locked)},
		{locked, Options{Serial: "123456789012345678901"}, fmt.Sprintf("disk %s: serial \"123456789012345678901\" has 21 bytes; give up to 20", locked)},
		{locked, Options{Queues: 33}, fmt.Sprintf("disk %s: 33 queues; give 1 to 32", locked)},
	} {
		if _, err := Open(row.path, row.o); err == nil || err.Error() != row.want {
			t.Errorf("Open(%s, %+v) says\n  %v, want\n  %s", row.path, row.o, err, row.want)
		}
	}
}

// TestLock: readers share, and a disk that was closed is free.
func TestLock(t *testing.T) {
	path := image(t, make([]byte, 512))
	one, two := open(t, path, Options{ReadOnly: true}), open(t, path, Options{ReadOnly: true})
	if _, err := Open(path, Options{}); err == nil {
		t.Error("a disk that others read was opened for writing")
	}
	one.Close()
	two.Close()
	open(t, path, Options{})
}

func TestOddSizeIsNoted(t *testing.T) {
	var log bytes.Buffer
	d := open(t, image(t, make([]byte, 1300)), Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if d.disk().sectors != 2 || !strings.Contains(log.String(), "bytes=276 block=512") {
		t.Errorf("%d sectors and the note %q", d.disk().sectors, log.String())
	}
}

func TestHostileChains(t *testing.T) {
	for _, row := range []struct {
		name string
		out  []byte
		in   int
		want error
	}{
		{"half a header", head(kindIn, 0)[:15], 513, errHeader},
		{"no header", nil, 513, errHeader},
		{"no room for the status", head(kindIn, 0), 0, errStatus},
		{"nothing", nil, 0, errHeader},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := virtiotest.Start(t, open(t, image(t, make([]byte, 512)), Options{}), all)
			for range queueSize { // each would keep a request, if it could
				d.Do(0, row.out, row.in)
				d.WaitFailed()
				d.Reset()
			}
			d.Do(0, row.out, row.in)
			if err := d.WaitFailed(); err == nil || !strings.Contains(err.Error(), row.want.Error()) {
				t.Errorf("failed for %v, want %v", err, row.want)
			}
			d.Reset()
			read(t, d, 0, 512)
		})
	}
}

// TestCutShort: a file that shrinks under a running machine is an error of the disk.
func TestCutShort(t *testing.T) {
	path := image(t, pattern(8192))
	device := open(t, path, Options{})
	d := virtiotest.Start(t, device, all)
	if err := os.Truncate(path, 512); err != nil {
		t.Fatal(err)
	}
	want := append(append(pattern(512), make([]byte, 512)...), statusIOError)
	if got := d.Do(0, head(kindIn, 0), 1025); !bytes.Equal(got, want) {
		t.Errorf("a read past the new end: % x …, status %d", got[:16], got[len(got)-1])
	}
	if s := device.Stats(); s.Errors != 1 || s.Reads != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestPause stops the device again and again under load: nothing is lost.
func TestPause(t *testing.T) {
	const n = 200
	want := pattern(n * 4096)
	path := image(t, want)
	d := virtiotest.Start(t, open(t, path, Options{Writethrough: true}), all) // writes go to the pool
	var requests []*virtiotest.Request
	for i := range n {
		data := want[i*4096:][:4096]
		if i%2 == 0 {
			requests = append(requests, d.Send(0, [][]byte{head(kindIn, uint64(i)*8)}, []int{4096, 1}))
		} else {
			requests = append(requests, d.Send(0, [][]byte{head(kindOut, uint64(i)*8), data}, []int{1}))
		}
		if i%20 == 0 {
			d.Stop()
			d.Restart()
		}
	}
	for i, r := range requests {
		got := r.Wait()
		if len(got) == 0 || got[len(got)-1] != statusOK || len(got) > 1 && !bytes.Equal(got[:4096], want[i*4096:][:4096]) {
			t.Fatalf("request %d: wrong answer of %d bytes", i, len(got))
		}
	}
}

// TestQueues has every queue work on sectors of its own, with a model beside it.
func TestQueues(t *testing.T) {
	const queues, span = 4, 64 // sectors
	path := image(t, make([]byte, queues*span*512))
	d := virtiotest.Start(t, open(t, path, Options{Queues: queues}), all)
	models := make([][]byte, queues)
	done := make(chan error, queues)
	for q := range queues {
		models[q] = make([]byte, span*512)
		go func() { done <- exercise(d, q, models[q], uint64(q*span)) }()
	}
	for range queues {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := contents(t, path); !bytes.Equal(got, bytes.Join(models, nil)) {
		t.Error("the file differs from the models")
	}
}

func exercise(d *virtiotest.Driver, q int, model []byte, base uint64) error {
	r := rand.New(rand.NewPCG(uint64(q), 7))
	for i := range 300 {
		at := r.IntN(len(model) / 512)
		n := (1 + r.IntN(min(8, len(model)/512-at))) * 512
		part := model[at*512:][:n]
		if r.IntN(2) == 0 {
			for j := range part {
				part[j] = byte(r.Uint32())
			}
			if got := d.Send(q, [][]byte{head(kindOut, base+uint64(at)), part}, []int{1}).Wait(); !bytes.Equal(got, []byte{0}) {
				return fmt.Errorf("queue %d, step %d: write: %v", q, i, got)
			}
			continue
		}
		if got := d.Send(q, [][]byte{head(kindIn, base+uint64(at))}, []int{n, 1}).Wait(); !bytes.Equal(got, append(bytes.Clone(part), 0)) {
			return fmt.Errorf("queue %d, step %d: read of %d at %d differs", q, i, n, at)
		}
	}
	return nil
}

// TestLimit runs in a bubble, where time passes when all wait.
func TestLimit(t *testing.T) {
	limit, err := ratelimit.Parse("bytes=100K/s,burst=4K,ops=1000/s,ops-burst=1000")
	if err != nil {
		t.Fatal(err)
	}
	path := image(t, make([]byte, 1<<20))
	synctest.Test(t, func(t *testing.T) {
		d := virtiotest.Start(t, open(t, path, Options{Limit: limit}), all)
		start := time.Now()
		for range 26 {
			read(t, d, 0, 4096)
		}
		if got := time.Since(start); got.Round(time.Millisecond) != time.Second {
			t.Errorf("104 KiB at 100 KiB/s with 4 of burst took %v, want 1s", got)
		}
		// What is done is told before the wait for the next.
		d.Stop()
		small, large := d.Send(0, [][]byte{head(kindIn, 0)}, []int{4096, 1}), d.Send(0, [][]byte{head(kindIn, 0)}, []int{1 << 20, 1})
		time.Sleep(time.Hour) // the bubble's: the bucket is full
		start = time.Now()
		d.Restart()
		if small.Wait(); time.Since(start) != 0 || large.Done() {
			t.Errorf("the driver heard of the first request after %v, and the second is done: %v", time.Since(start), large.Done())
		}
		large.Wait()
		// A pause does not wait for the limiter, and loses nothing.
		r := d.Send(0, [][]byte{head(kindIn, 0)}, []int{1 << 20, 1})
		synctest.Wait()
		start = time.Now()
		d.Stop()
		if took := time.Since(start); took != 0 || r.Done() {
			t.Errorf("Stop took %v, and the request is done: %v", took, r.Done())
		}
		for range queueSize {
			d.Restart()
			synctest.Wait()
			d.Stop()
		}
		d.Restart()
		if got := r.Wait(); len(got) != 1<<20+1 {
			t.Errorf("after the pause: %d bytes", len(got))
		}
	})
}

// raw drives queue 0 with one prepared chain per slot, without allocation.
type raw struct {
	*virtiotest.Driver
	ring  *virtiotest.Ring
	heads []uint16
}

func newRaw(t testing.TB, d *virtiotest.Driver, depth, n int, kind uint32) *raw {
	r := &raw{Driver: d, ring: d.Ring(0)}
	for i := range depth {
		h, data, s := d.Memory.Alloc(16), d.Memory.Alloc(n), d.Memory.Alloc(1)
		copy(d.Memory.Bytes(h, 16), head(kind, uint64(i*n/512)))
		first, flags := uint16(i*3), uint16(virtiotest.Next)
		if kind == kindIn {
			flags |= virtiotest.Write
		}
		r.ring.SetDesc(first, virtiotest.Desc{Addr: h, Len: 16, Flags: virtiotest.Next, Next: first + 1})
		r.ring.SetDesc(first+1, virtiotest.Desc{Addr: data, Len: uint32(n), Flags: flags, Next: first + 2})
		r.ring.SetDesc(first+2, virtiotest.Desc{Addr: s, Len: 1, Flags: virtiotest.Write})
		r.heads = append(r.heads, first)
	}
	return r
}

// round sends all and waits for all.
func (r *raw) round() {
	r.ring.Offer(r.heads...)
	r.Kick(0)
	for left := len(r.heads); left > 0; {
		if _, _, ok := r.ring.Reap(); ok {
			left--
		} else {
			runtime.Gosched()
		}
	}
}

func TestNoAllocation(t *testing.T) {
	for _, kind := range []uint32{kindIn, kindOut} {
		d := virtiotest.Start(t, open(t, image(t, make([]byte, 1<<20)), Options{}), all)
		r := newRaw(t, d, 32, 4096, kind)
		r.round()
		if n := testing.AllocsPerRun(100, r.round); n >= 1 {
			t.Errorf("kind %d: %v allocations for 32 requests", kind, n)
		}
	}
}

func BenchmarkDevice(b *testing.B) {
	for _, row := range []struct {
		name     string
		kind     uint32
		depth, n int
		options  Options
	}{
		{"read-4k-1", kindIn, 1, 4096, Options{}},
		{"read-4k-32", kindIn, 32, 4096, Options{}},
		{"write-4k-32", kindOut, 32, 4096, Options{}},
		{"read-1M-4", kindIn, 4, 1 << 20, Options{}},
		{"write-1M-4", kindOut, 4, 1 << 20, Options{}},
		{"direct-read-4k-32", kindIn, 32, 4096, Options{Direct: true}},
	} {
		b.Run(row.name, func(b *testing.B) {
			device, err := Open(image(b, make([]byte, 8<<20)), row.options)
			if err != nil {
				b.Skip(err)
			}
			defer device.Close()
			r := newRaw(b, virtiotest.Start(b, device, all), row.depth, row.n, row.kind)
			b.SetBytes(int64(row.depth * row.n))
			b.ReportAllocs()
			for b.Loop() {
				r.round()
			}
			b.ReportMetric(float64(b.N*row.depth)/b.Elapsed().Seconds(), "requests/s")
			r.Stop()
		})
	}
}

// FuzzBlk sends requests of any content and shape: each is answered with a
// status, or fails the device.
func FuzzBlk(f *testing.F) {
	f.Add(head(kindIn, 0), uint32(513), uint8(0), uint64(1<<63-1), false)
	f.Add(append(head(kindOut, 1), make([]byte, 512)...), uint32(1), uint8(20), uint64(0), true)
	f.Add(append(head(kindDiscard, 0), ranges(0, 8, 0, 7, 1, 0)...), uint32(1), uint8(3), uint64(1<<63-1), false)
	f.Add(append(head(kindWriteZeroes, 0), ranges(1<<63, 1<<31, 1)...), uint32(1), uint8(16), uint64(1<<63-1), false)
	f.Add(head(kindGetID, 0), uint32(21), uint8(1), uint64(1<<63-1), true)
	f.Add(head(kindIn, 1<<55), uint32(1025), uint8(9), uint64(1<<63-1), true)
	path := image(f, pattern(1<<16))
	writable := open(f, path, Options{Serial: "fuzz"})
	readOnly := open(f, image(f, pattern(1<<16)), Options{ReadOnly: true})
	f.Fuzz(func(t *testing.T, out []byte, in uint32, cut uint8, features uint64, protect bool) {
		device := writable
		if protect {
			device = readOnly
		}
		in %= 128 << 10
		if len(out) > 128<<10 {
			return
		}
		d := virtiotest.StartIn(t, virtiotest.NewMemory(1<<20), device, features|virtio.FeatureEventIdx)
		at := min(int(cut), len(out))
		var ins []int
		if in > 0 {
			half := int(in) * int(cut) / 256
			ins = []int{half, int(in) - half}
		}
		answer := d.Send(0, [][]byte{out[:at], out[at:]}, ins).Wait()
		broken := len(out) < headerSize || in == 0
		if failed := d.Failed() != nil; failed != broken {
			t.Fatalf("%d bytes out, %d in: failed for %v", len(out), in, d.Failed())
		}
		if !broken && (len(answer) != int(in) || answer[in-1] > statusUnsupported) {
			t.Fatalf("answer of %d bytes for %d", len(answer), in)
		}
		d.Stop()
	})
}

// FuzzRestore is a state that somebody wrote into a snapshot.
func FuzzRestore(f *testing.F) {
	path := image(f, pattern(1<<16))
	state := func(sectors uint64, writeback byte) []byte {
		return append(binary.LittleEndian.AppendUint64(nil, sectors), writeback)
	}
	virtiotest.FuzzRestore(f, func(t *testing.T) virtio.Device { return open(t, path, Options{}) }, nil,
		slices.Concat(
			virtiotest.FuzzRequest(0, [][]byte{head(kindOut, 0), make([]byte, 512)}, []int{1}), virtiotest.FuzzPause,
			virtiotest.FuzzRequest(0, [][]byte{head(kindFlush, 0)}, []int{1}), virtiotest.FuzzReset),
		state(1<<7, 0), state(1<<7, 1), state(1<<7, 2), state(1, 0), state(1<<7, 1)[:8])
}

// FuzzDriver is a driver that breaks every rule.
func FuzzDriver(f *testing.F) {
	path := image(f, pattern(1<<16))
	limit := ratelimit.Limits{Ops: ratelimit.Rate{PerSecond: 100, Burst: 2}}
	virtiotest.Fuzz(f, func(t *testing.T) virtio.Device {
		return open(t, path, Options{Queues: 2, Limit: limit})
	}, nil,
		slices.Concat(
			virtiotest.FuzzRequest(0, [][]byte{head(kindOut, 0), make([]byte, 512)}, []int{1}), virtiotest.FuzzPause,
			virtiotest.FuzzRequest(1, [][]byte{head(kindIn, 0)}, []int{1024, 1}), virtiotest.FuzzReset,
			virtiotest.FuzzRequest(0, [][]byte{head(kindFlush, 0)}, []int{1})),
		virtiotest.FuzzRequest(0, [][]byte{head(kindIn, 1<<55)[:9]}, []int{3}),
		virtiotest.FuzzRequest(1, [][]byte{append(head(kindDiscard, 0), ranges(0, 1, 0)...)}, []int{1}))
}

// TestAbsent: a guest that boots to be a template is told nothing of the disk, whose sectors are
// there for the next that takes the device; and a snapshot of then is for any disk.
func TestAbsent(t *testing.T) {
	f, err := os.OpenFile(image(t, pattern(8192)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(f, Options{Absent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	capacity := func() uint64 {
		var b [8]byte
		d.ReadConfig(0, b[:])
		return binary.LittleEndian.Uint64(b[:])
	}
	driver := virtiotest.Start(t, d, all)
	read := func() status {
		out := driver.Do(0, head(kindIn, 0), 512+1)
		return status(out[len(out)-1])
	}
	if n, s := capacity(), read(); n != 0 || s != statusIOError {
		t.Errorf("absent: %d sectors, a read is %d", n, s)
	}
	state, err := d.Save()
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, image(t, make([]byte, 1024)), Options{Absent: true})
	if err := other.Restore(state); err != nil {
		t.Error(err)
	}
	d.Present()
	if n, s := capacity(), read(); n != 16 || s != statusOK {
		t.Errorf("present: %d sectors, a read is %d", n, s)
	}
}

// TestSlot: a device without a disk refuses, has what is put into it for its next driver, as
// what that is, and nothing any more when it is taken out, even from a driver that does not let go.
func TestSlot(t *testing.T) {
	slot, err := NewSlot(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slot.Close() })
	held := func(path string) (n int) { // descriptors of ours
		names, _ := filepath.Glob("/proc/self/fd/*")
		for _, name := range names {
			if to, _ := os.Readlink(name); to == path {
				n++
			}
		}
		return n
	}
	insert := func(path string, readOnly bool) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := slot.Insert(f, readOnly); err != nil {
			t.Fatal(err)
		}
	}
	sectors := func() uint64 {
		var b [8]byte
		slot.ReadConfig(0, b[:])
		return binary.LittleEndian.Uint64(b[:])
	}
	first, second := image(t, bytes.Repeat([]byte{1}, 1024)), image(t, bytes.Repeat([]byte{2}, 2048))

	empty := virtiotest.Start(t, slot, all)
	if got := empty.Do(0, head(kindIn, 0), 513); got[512] != statusIOError || sectors() != 0 {
		t.Errorf("an empty slot of %d sectors reads with status %d", sectors(), got[512])
	}
	insert(first, false)
	if sectors() != 0 {
		t.Error("a driver that has the slot sees what comes into it")
	}
	empty.Stop()
	if sectors() != 2 || slot.Features()&FeatureReadOnly != 0 {
		t.Errorf("%d sectors, features %#x", sectors(), slot.Features())
	}
	d := virtiotest.Start(t, slot, all)
	if got := read(t, d, 1, 512); got[0] != 1 {
		t.Errorf("it reads %v", got[:4])
	}
	if s := write(t, d, kindOut, 0, bytes.Repeat([]byte{7}, 512)); s != statusOK || contents(t, first)[0] != 7 {
		t.Errorf("a write: status %d", s)
	}
	d.Stop()
	slot.Eject()
	if sectors() != 0 || held(first) != 0 {
		t.Errorf("taken out it has %d sectors, and we hold %d descriptors of it", sectors(), held(first))
	}

	insert(second, true)
	d = virtiotest.Start(t, slot, all)
	if got := read(t, d, 3, 512); got[0] != 2 || slot.Features()&FeatureReadOnly == 0 {
		t.Errorf("it reads %v, features %#x", got[:4], slot.Features())
	}
	if s := write(t, d, kindOut, 0, make([]byte, 512)); s != statusIOError {
		t.Errorf("a write to what is to be read: status %d", s)
	}
	slot.Eject() // from its driver
	if d.WaitFailed() == nil {
		t.Error("its driver is not told")
	}
	d.Stop()
	if sectors() != 0 || held(second) != 0 {
		t.Errorf("taken from its driver it has %d sectors, and we hold %d descriptors of it", sectors(), held(second))
	}
}
