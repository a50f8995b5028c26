package boot

import (
	"bufio"
	"bytes"
	"debug/elf"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// packers are the commands of scripts/Makefile.lib, and who undoes what they did.
var packers = map[string]struct{ pack, unpack []string }{
	"gzip":  {[]string{"gzip", "-n", "-9", "-c"}, []string{"gzip", "-dc"}},
	"bzip2": {[]string{"bzip2", "-9", "-c"}, []string{"bzip2", "-dc"}},
	"lzma":  {[]string{"xz", "--format=lzma", "-6", "-c"}, []string{"xz", "--format=lzma", "-dc"}},
	"xz":    {[]string{"xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB", "-c"}, []string{"xz", "-dc"}},
	"lz4":   {[]string{"lz4", "-l", "-9", "-c"}, []string{"lz4", "-dc"}},
	"zstd":  {[]string{"zstd", "--ultra", "-22", "-c"}, []string{"zstd", "-dc"}},
}

// tool runs a filter, or skips the test if the host has none.
func tool(t testing.TB, command []string, in []byte) []byte {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("%s is missing; apt-get install gzip bzip2 xz-utils lz4 zstd", command[0])
	}
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v", command, err)
	}
	return out
}

// wrapOf is a bzImage around a packed payload, whose last four bytes are the size.
func wrapOf(payload []byte) []byte {
	const sects, gap = 3, 100
	b := make([]byte, (sects+1)*sector+gap)
	b[hdrSetupSects] = sects
	le.PutUint16(b[hdrBootFlag:], bootFlag)
	b[hdrJump], b[hdrJump+1] = 0xeb, 0x6a
	copy(b[hdrMagic:], headerMagic)
	le.PutUint16(b[hdrVersion:], 0x20f)
	le.PutUint16(b[hdrXLoadFlags:], xlfKernel64|xlfAbove4G)
	le.PutUint32(b[hdrInitrdMax:], 1<<31-1)
	le.PutUint32(b[hdrCmdlineSize:], 2047)
	le.PutUint32(b[hdrPayload:], gap)
	le.PutUint32(b[hdrPayloadLen:], uint32(len(payload)))
	le.PutUint32(b[0x260:], 0x1234000) // init_size
	return append(append(b, payload...), "what follows is not the payload"...)
}

// bzImageOf packs vmlinux as Linux's Makefile does.
func bzImageOf(t testing.TB, format string, vmlinux []byte) []byte {
	payload := tool(t, packers[format].pack, vmlinux)
	if format != "gzip" {
		payload = le.AppendUint32(payload, uint32(len(vmlinux)))
	}
	return wrapOf(payload)
}

// code is real x86 code, for the filter of xz: this test's own.
func code(t testing.TB, n int64) []byte {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnpack(t *testing.T) {
	program := code(t, mib/2+12345)
	vmlinux := testKernel(program)
	for format := range packers {
		t.Run(format, func(t *testing.T) {
			b := bzImageOf(t, format, vmlinux)
			i := mustOpen(t, b)
			if got := i.String(); got != "bzImage, "+format {
				t.Errorf("is %q", got)
			}
			m := newRAM(t, 64*mib, 0)
			e := mustLoad(t, i, m, someParams)
			if e.Protocol != PVH || e.RIP != entry32 {
				t.Errorf("entry %+v", e)
			}
			compare(t, m, vmlinux)
			damaged(t, b, i)
		})
	}
}

// compare has debug/elf read vmlinux and looks for its segments in memory.
func compare(t *testing.T, m *ram, vmlinux []byte) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		want := make([]byte, p.Memsz)
		if _, err := io.ReadFull(p.Open(), want[:p.Filesz]); err != nil {
			t.Fatal(err)
		}
		got := m.at(t, p.Paddr, p.Memsz)
		if !bytes.Equal(got, want) {
			at := 0
			for got[at] == want[at] {
				at++
			}
			t.Errorf("segment %d differs from byte %#x on: % x, want % x", i, at, got[at:][:16], want[at:][:16])
		}
	}
}

// damaged flips a bit in the middle of the payload, which must be seen: every
// format but lzma and lz4's old one has a checksum, and those have the size.
func damaged(t *testing.T, b []byte, i *Image) {
	t.Helper()
	b = bytes.Clone(b)
	b[i.wrap.payload+i.wrap.length/2] ^= 0x10
	j, err := Open(write(t, b))
	if err == nil {
		_, err = j.Load(newRAM(t, 64*mib, 0), Params{Map: Map(64*mib, 0)})
	}
	if name := i.wrap.format.name; err == nil && name != "lzma" && name != "lz4" {
		t.Error("loads with a damaged payload")
	} else if err != nil {
		oneLine(t, err)
	}
}

func oneLine(t *testing.T, err error) {
	t.Helper()
	if s := err.Error(); !strings.HasPrefix(s, "boot: ") || strings.Contains(s, "\n") {
		t.Errorf("not an error for a person: %q", s)
	}
}

// TestBranches has the x86 filter undone on bytes that are hard for it: opcodes
// close to each other, with targets of every sign.
func TestBranches(t *testing.T) {
	data := make([]byte, 500_000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = []byte{0xe8, 0xe9, 0, 0, 0xff, 0xff, 1, byte(r.Uint32())}[r.IntN(8)]
	}
	vmlinux := testKernel(data)
	m := newRAM(t, 64*mib, 0)
	mustLoad(t, mustOpen(t, bzImageOf(t, "xz", vmlinux)), m, Params{})
	compare(t, m, vmlinux)
}

// TestXZVariants has filters and checks that Linux does not use but xz does.
func TestXZVariants(t *testing.T) {
	vmlinux := testKernel(code(t, 300_000))
	for _, options := range []string{"--check=crc64", "--check=crc64 --x86 --lzma2", "--check=crc32 --block-size=65536 --x86 --lzma2", "-T2 --block-size=100000"} {
		payload := tool(t, append([]string{"xz", "-c"}, strings.Fields(options)...), vmlinux)
		payload = le.AppendUint32(payload, uint32(len(vmlinux)))
		m := newRAM(t, 64*mib, 0)
		mustLoad(t, mustOpen(t, wrapOf(payload)), m, Params{})
		compare(t, m, vmlinux)
	}
	for options, want := range map[string]string{
		"--check=sha256": "neither CRC32 nor CRC64",
		"--arm --lzma2":  "are not LZMA2, alone or after the one for x86",
	} {
		payload := tool(t, append([]string{"xz", "-c"}, strings.Fields(options)...), vmlinux)
		payload = le.AppendUint32(payload, uint32(len(vmlinux)))
		_, err := mustOpen(t, wrapOf(payload)).Load(newRAM(t, 64*mib, 0), Params{Map: Map(64*mib, 0)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("xz %s: got %v, want an error with %q", options, err, want)
		}
	}
}

// TestSparse: pages of zeros in a vmlinux cost no memory.
func TestSparse(t *testing.T) {
	b := bzImageOf(t, "gzip", testKernel(make([]byte, 32*mib)))
	m := newRAM(t, 64*mib, 0)
	if n := rss(t, func() { mustLoad(t, mustOpen(t, b), m, Params{}) }); n > 8*mib {
		t.Errorf("loading 32 MiB of zeros took %d MiB", n>>20)
	}
}

var rssAnon = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB`)

// rss is by how many bytes f has made this process grow.
func rss(t *testing.T, f func()) int {
	t.Helper()
	now := func() (n int) {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range rssAnon.FindSubmatch(b)[1] {
			n = 10*n + int(c-'0')
		}
		return n << 10
	}
	before := now()
	f()
	return now() - before
}

// TestDebian loads Debian's cloud kernel, and compares it with what the distribution's tools unpack.
func TestDebian(t *testing.T) {
	b := debianKernel(t)
	i := mustOpen(t, b)
	t.Log(i)
	m := newRAM(t, 256*mib, 0)
	e := mustLoad(t, i, m, someParams)
	if e.Protocol != PVH {
		t.Errorf("entered by %v, though it has CONFIG_PVH", e.Protocol)
	}
	w := i.wrap
	vmlinux := tool(t, packers[w.format.name].unpack, b[w.payload:][:w.length])
	compare(t, m, vmlinux)

	f, err := os.CreateTemp(t.TempDir(), "vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(vmlinux); err != nil {
		t.Fatal(err)
	}
	i, err = Open(f)
	if err != nil {
		t.Fatal(err)
	}
	m = newRAM(t, 256*mib, 0)
	p := someParams
	p.Protocol = Linux64
	if e = mustLoad(t, i, m, p); e.RIP != 0x1000000 {
		t.Errorf("enters at %#x", e.RIP)
	}
	compare(t, m, vmlinux)
}

// debianKernel is vmlinuz of linux-image-cloud-amd64, downloaded once.
func debianKernel(t *testing.T) []byte {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache directory for Debian's kernel (set HOME or XDG_CACHE_HOME):", err)
	}
	name := filepath.Join(cache, "bulkhead", "boot-test-vmlinuz")
	if b, err := os.ReadFile(name); err == nil {
		return b
	}
	dir := t.TempDir()
	const script = `set -e
p=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*cloud-amd64\).*/\1/p' | head -1)
apt-get -q -o APT::Sandbox::User=root download "$p"
dpkg-deb --fsys-tarfile "$p"_*.deb | tar -x --wildcards --strip-components=2 './boot/vmlinuz-*'
mv vmlinuz-* vmlinuz`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("Debian's kernel is missing (%v); it takes apt with a mirror of Debian:\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "vmlinuz"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".new", b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
	return b
}

func buffered(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }
