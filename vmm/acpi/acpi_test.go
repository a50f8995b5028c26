package acpi

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bulkhead/virtio"
)

var update = flag.Bool("update", false, "rewrite testdata")

const at, room = 0xe0000, 128 << 10

// ram is memory from at on.
type ram []byte

func (m ram) Slice(addr virtio.Addr, n uint64) ([]byte, error) {
	if addr < at || uint64(addr-at) > uint64(len(m)) || n > uint64(len(m))-uint64(addr-at) {
		return nil, errors.New("no RAM there")
	}
	return m[addr-at:][:n], nil
}

var small = Config{
	CPUs: []uint32{0}, Serial: []Serial{{0x3f8, 4}},
	SleepControl: 0x600, SleepStatus: 0x601, Reset: 0x64, ResetValue: 0xfe,
}

// machines are the ones with golden files.
var machines = map[string]Config{
	"small": small,
	"full": {
		CPUs:   []uint32{0, 1, 4, 5, 254, 255, 300},
		Serial: []Serial{{0x3f8, 4}, {0x2f8, 3}},
		Virtio: []MMIO{{0xd0000000, 0x1000, 5}, {0xd0001000, 0x1000, 6}, {0xfe000000, 0x200, 23}},
		RTC:    true, I8042: true, PowerButton: 8, Generation: Generation{0xff000, 10},
		SleepControl: 0x600, SleepStatus: 0x601, Reset: 0xcf9, ResetValue: 6,
	},
}

// write is the tables of c by signature, found the way a guest finds them.
func write(t *testing.T, c Config) map[string][]byte {
	t.Helper()
	mem := make(ram, room)
	rsdp, err := Write(mem, at, room, c)
	if err != nil {
		t.Fatal(err)
	}
	take := func(addr, n uint64) []byte {
		b, err := mem.Slice(virtio.Addr(addr), n)
		if err != nil {
			t.Fatalf("%d bytes at %#x: %v", n, addr, err)
		}
		return b
	}
	tables := map[string][]byte{}
	whole := func(addr uint64) []byte {
		b := take(addr, uint64(le.Uint32(take(addr+4, 4))))
		if s := sum(b); s != 0 {
			t.Errorf("%s sums up to %#x", b[:4], s)
		}
		tables[string(b[:4])] = b
		return b
	}
	root := take(rsdp, 36)
	if string(root[:8]) != "RSD PTR " || sum(root[:20]) != 0 || sum(root) != 0 || root[15] != 2 {
		t.Errorf("RSDP % x", root)
	}
	x := whole(le.Uint64(root[24:]))
	for p := x[headerSize:]; len(p) > 0; p = p[8:] {
		whole(le.Uint64(p))
	}
	f := tables["FACP"]
	if f == nil || tables["APIC"] == nil {
		t.Fatalf("the XSDT % x names no FADT or no MADT", x)
	}
	if uint64(le.Uint32(f[fadtDSDT:])) != le.Uint64(f[fadtXDSDT:]) {
		t.Error("the FADT's two addresses of the DSDT differ")
	}
	whole(le.Uint64(f[fadtXDSDT:]))
	return tables
}

func sum(b []byte) (s byte) {
	for _, v := range b {
		s += v
	}
	return s
}

// TestTables checks sums and links, and that the disassembly is the golden one.
func TestTables(t *testing.T) {
	for machine, c := range machines {
		t.Run(machine, func(t *testing.T) {
			tables := write(t, c)
			for _, signature := range []string{"FACP", "APIC", "DSDT"} {
				golden(t, filepath.Join("testdata", machine+"-"+strings.ToLower(signature)+".dsl"), disassemble(t, tables[signature]))
			}
		})
	}
}

// TestAssembled has iasl compile what it disassembled: the AML must be ours, byte by byte.
func TestAssembled(t *testing.T) {
	for machine, c := range machines {
		t.Run(machine, func(t *testing.T) {
			dsdt := write(t, c)["DSDT"]
			dir := t.TempDir()
			source := filepath.Join(dir, "again.dsl")
			if err := os.WriteFile(source, []byte(disassemble(t, dsdt)), 0o600); err != nil {
				t.Fatal(err)
			}
			out := iasl(t, "-oa", source) // -oa: no optimizations
			if !strings.Contains(out, " 0 Errors, 0 Warnings") {
				t.Errorf("iasl has complaints:\n%s", out)
			}
			again, err := os.ReadFile(filepath.Join(dir, "again.aml"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again[headerSize:], dsdt[headerSize:]) {
				t.Errorf("our AML\n% x\niasl's\n% x", dsdt[headerSize:], again[headerSize:])
			}
		})
	}
}

// varying are the lines of a disassembly that name a time, a path or a version.
var varying = regexp.MustCompile(`(?s)/\*.*?\*/\s*`)

func disassemble(t *testing.T, table []byte) string {
	t.Helper()
	base := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(base+".dat", table, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := iasl(t, "-d", base+".dat"); regexp.MustCompile(`(?i)warning|error|invalid|incorrect`).MatchString(out) {
		t.Errorf("iasl has complaints:\n%s", out)
	}
	b, err := os.ReadFile(base + ".dsl")
	if err != nil {
		t.Fatal(err)
	}
	text := varying.ReplaceAllString(string(b), "")
	if i := strings.Index(text, "Raw Table Data"); i >= 0 { // repeats it in hexadecimal
		text = text[:i]
	}
	return strings.TrimSpace(text) + "\n"
}

func iasl(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("iasl")
	if err != nil {
		t.Skip("iasl is missing; apt-get install acpica-tools")
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("iasl %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update rewrites it): got\n%s", path, got)
	}
}

// TestPackageLength has every size at which the encoding (§20.2.4) grows.
func TestPackageLength(t *testing.T) {
	for _, row := range []struct {
		content int
		want    []byte // what stands before it
	}{
		{0, []byte{1}},
		{62, []byte{63}},
		{63, []byte{0x41, 0x04}},
		{4093, []byte{0x4f, 0xff}},
		{4094, []byte{0x81, 0x00, 0x01}},
		{1<<20 - 4, []byte{0x8f, 0xff, 0xff}},
		{1<<20 - 3, []byte{0xc1, 0x00, 0x00, 0x01}},
	} {
		got := sized(nil, make(term, row.content))
		if len(got) != row.content+len(row.want) || !bytes.HasPrefix(got, row.want) {
			t.Errorf("%d bytes: length % x, want % x", row.content, got[:len(got)-row.content], row.want)
		}
	}
}

func TestManyCPUs(t *testing.T) {
	c := small
	c.CPUs = nil
	for id := range uint32(1024) {
		c.CPUs = append(c.CPUs, id)
	}
	if n := len(write(t, c)["APIC"]); n != 36+8+255*8+769*16+12+6 {
		t.Errorf("the MADT has %d bytes", n)
	}
}

func TestRefused(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"without CPUs":                  func(c *Config) { c.CPUs = nil },
		"two CPUs have the APIC id 7":   func(c *Config) { c.CPUs = []uint32{0, 7, 7} },
		"has GSI 24":                    func(c *Config) { c.Virtio = []MMIO{{0xd0000000, 4096, 24}} },
		"and virtio device 0 share GSI": func(c *Config) { c.Virtio = []MMIO{{0xd0000000, 4096, 4}} },
		"the keyboard and virtio":       func(c *Config) { c.I8042 = true; c.Virtio = []MMIO{{0xd0000000, 4096, 1}} },
		"there is room for":             func(c *Config) { c.CPUs = make([]uint32, 20000); number(c.CPUs) },
	} {
		c := small
		change(&c)
		if _, err := Write(make(ram, room), at, room, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if _, err := Write(make(ram, 100), at, room, small); err == nil {
		t.Error("tables went to where no RAM is")
	}
}

func number(ids []uint32) {
	for i := range ids {
		ids[i] = uint32(i)
	}
}
