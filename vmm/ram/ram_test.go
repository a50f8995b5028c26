package ram

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bulkhead/virtio"

	"golang.org/x/sys/unix"
)

func newMemory(t *testing.T, size uint64, b Backing) *Memory {
	t.Helper()
	m, err := New(size, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return m
}

func TestSlice(t *testing.T) {
	const GiB = 1 << 30
	small, large := newMemory(t, 64<<20, Memfd), newMemory(t, 4*GiB, Memfd) // 3 GiB, and 1 from 4 GiB on
	cases := []struct {
		m     *Memory
		at    virtio.Addr
		n     uint64
		there bool
	}{
		{small, 0, 64 << 20, true}, {small, 0, 64<<20 + 1, false}, {small, 64<<20 - 1, 1, true}, {small, 64 << 20, 1, false},
		{small, 64 << 20, 0, false}, {small, ^virtio.Addr(0), 2, false}, {small, 16, ^uint64(0), false},
		{large, 3*GiB - 1, 1, true}, {large, 3*GiB - 1, 2, false}, {large, 3 * GiB, 1, false}, {large, 4*GiB - 1, 2, false},
		{large, 4 * GiB, GiB, true}, {large, 4*GiB - 1, 1, false}, {large, 5*GiB - 1, 1, true}, {large, 5 * GiB, 1, false},
	}
	for _, c := range cases {
		b, err := c.m.Slice(c.at, c.n)
		if (err == nil) != c.there || c.there && uint64(len(b)) != c.n {
			t.Errorf("%d bytes at %#x of %d MiB: %d, %v", c.n, c.at, c.m.Size()>>20, len(b), err)
		}
	}
	b, err := large.Slice(4*GiB, 4)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, "here")
	if got := large.Bytes()[3*GiB : 3*GiB+4]; string(got) != "here" {
		t.Errorf("what the guest has at 4 GiB lies elsewhere: %q", got)
	}
}

func TestCheck(t *testing.T) {
	for size, want := range map[uint64]string{
		0: "not 0 bytes", 1 << 20: "not 1 MiB", Least: "", 128 << 20: "", 6 << 30: "", Most + 2<<20: "not 512 GiB",
		128<<20 + 4096: "not a multiple of 2 MiB",
	} {
		err := Check(size)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v, want %q", size, err, want)
		}
	}
}

// resident is how many pages of b are in memory.
func resident(t *testing.T, b []byte) int {
	t.Helper()
	n := 0
	vec := make([]byte, len(b)/4096)
	if err := mincore(b, vec); err != nil {
		t.Fatal(err)
	}
	for _, v := range vec {
		n += int(v & 1)
	}
	return n
}

func TestRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, bytes.Repeat([]byte{7}, Least), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped, err := Map(f, 0, Least)
	if err != nil {
		t.Fatal(err)
	}
	defer mapped.Close()
	for _, m := range []*Memory{newMemory(t, Least, Memfd), newMemory(t, Least, Anonymous), mapped} {
		b := m.Bytes()
		for i := range b {
			b[i] = 1
		}
		// A page and a half on either side of a whole one.
		part, err := m.Slice(4096+100, 2*4096)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Release(part); err != nil {
			t.Fatal(err)
		}
		if m.backing == Memfd && resident(t, b[:4*4096]) != 3 {
			t.Errorf("%s: %d of 4 pages are in memory, want 3", m.backing, resident(t, b[:4*4096]))
		}
		for i := range 4 * 4096 {
			want := byte(1)
			if i >= 2*4096 && i < 3*4096 {
				want = 0
			}
			if b[i] != want {
				t.Fatalf("%s: byte %d is %d, want %d", m.backing, i, b[i], want)
			}
		}
		if err := m.Release(make([]byte, 8192)); err == nil {
			t.Errorf("%s: released what is not the guest's", m.backing)
		}
	}
}

// TestMapIsPrivate: what the guest writes does not reach the file.
func TestMapIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	want := bytes.Repeat([]byte("page"), (Least+4096)/4)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := Map(f, 4096, Least)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !bytes.Equal(m.Bytes()[:4], []byte("page")) {
		t.Errorf("the memory begins with %q", m.Bytes()[:4])
	}
	copy(m.Bytes(), "mine")
	if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
		t.Error("the file has changed")
	}
}

// TestMapHoles: data of a sparse file is where it was, wherever that is, and to read or
// write where it has holes makes no pages of the file.
func TestMapHoles(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const begin = 3 * 4096
	want := make([]byte, Least)
	put := func(at int, text string) {
		copy(want[at:], text)
		if _, err := f.WriteAt([]byte(text), begin+int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt([]byte("header"), begin-100); err != nil { // in the page before
		t.Fatal(err)
	}
	put(4096, "near the beginning")
	put(6*4096-3, "across pages")
	put(3*4096, "behind a short hole")
	put(2<<20, "behind a long one")
	put(Least/2+8191, "in the middle")
	put(Least-4, "last")
	if err := f.Truncate(begin + Least); err != nil {
		t.Fatal(err)
	}
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	before := blocks()
	m, err := Map(f, begin, Least)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !bytes.Equal(m.Bytes(), want) {
		t.Error("the memory is not what the file has")
	}
	for i := range m.Bytes() {
		m.Bytes()[i]++
	}
	const short = 2 * shortHole / 512 // of tmpfs a page comes to be when it is read
	if got := blocks(); got > before+short {
		t.Errorf("%d blocks, and %d after the memory was written to", before, got)
	}
	parts := 0
	for range extents(int(f.Fd()), begin, begin+Least) {
		parts++
	}
	if parts < 1 || parts > 4 {
		t.Errorf("%d parts are mapped", parts)
	}
	for from, to := range extents(int(f.Fd()), begin, begin+Least) { // whoever stops is asked no more
		if from != begin && from != begin+4096 || to <= from {
			t.Errorf("%d to %d is the first part", from, to)
		}
		break
	}
}

// TestUsed: what was never touched is not looked at, and not made by looking.
func TestUsed(t *testing.T) {
	m := newMemory(t, Least, Memfd)
	var got [][2]int
	for from, to := range m.Used() {
		got = append(got, [2]int{from, to})
	}
	if got != nil {
		t.Errorf("new memory has %v", got)
	}
	m.Bytes()[5*4096+7], m.Bytes()[Least-1] = 1, 1
	for from, to := range m.Used() {
		got = append(got, [2]int{from, to})
	}
	if want := [][2]int{{5 * 4096, 6 * 4096}, {Least - 4096, Least}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if n := resident(t, m.Bytes()); n != 2 {
		t.Errorf("%d pages are in memory, want 2", n)
	}
}

func TestHugeTLB(t *testing.T) {
	m, err := New(Least, HugeTLB)
	if err != nil {
		if !strings.Contains(err.Error(), "vm.nr_hugepages=8") {
			t.Errorf("no huge pages: %v; want what to do about it", err)
		}
		return
	}
	defer m.Close()
	m.Bytes()[0] = 1
}

func mincore(b, vec []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, addressOf(b), uintptr(len(b)), addressOf(vec))
	if errno != 0 {
		return errno
	}
	return nil
}

// A guest's huge pages are huge pages of the host only where both begin alike.
func TestAlignment(t *testing.T) {
	for range 4 { // wherever mmap comes to put it
		m, err := New(Least+huge, Anonymous)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if n := ahead(m.Bytes(), huge); n != 0 {
			t.Errorf("the memory begins %#x bytes before a multiple of 2 MiB", n)
		}
		if n := len(m.Bytes()); n != Least+huge || cap(m.Bytes()) != n {
			t.Errorf("the memory has %d bytes of %d, want %d", n, cap(m.Bytes()), Least+huge)
		}
	}
}
