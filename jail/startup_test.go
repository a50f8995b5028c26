package jail

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// resident is how many KiB of the program's unwritten mappings this process has mapped.
func resident(t *testing.T) (kib int) {
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			ours = strings.HasSuffix(line, " "+program) && f[1][1] == '-'
		case ours && len(f) == 3 && f[0] == "Rss:":
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			kib += n
		}
	}
	return kib
}

func TestStartup(t *testing.T) {
	s := StartupPages()
	if len(s.parts) < 2 {
		t.Fatalf("found %+v, want text and constants", s.parts)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for _, p := range s.parts { // all is mapped
		if _, err := mem.ReadAt(make([]byte, p.end-p.start), int64(p.start)); err != nil {
			t.Fatal(err)
		}
	}
	before := resident(t)
	s.Drop()
	if after := resident(t); before == 0 || after > before*3/4 {
		t.Errorf("%d KiB were mapped, and %d are after they were given back", before, after)
	}
}

func TestStartupPages(t *testing.T) {
	const maps = `00400000-00f1a000 r-xp 00000000 fe:00 9980805                            /opt/a program
00f1a000-01c4d000 r--p 00b1a000 fe:00 9980805                            /opt/a program
01c4d000-01ccb000 rw-p 0184d000 fe:00 9980805                            /opt/a program
7f25ee000000-7f25ee200000 r--s 00000000 fe:00 9987485                    /opt/a program
7f25ee300000-7f25ee400000 r--p 00000000 fe:00 9987485                    /bin/busybox
7ffe00000000-7ffe00100000 rw-p 00000000 00:00 0                          [stack]
nonsense
`
	got := startupPages(strings.NewReader(maps), "/opt/a program")
	want := []part{{0x400000, 0xf1a000}, {0xf1a000, 0x1c4d000}}
	if len(got.parts) != 2 || got.parts[0] != want[0] || got.parts[1] != want[1] {
		t.Errorf("got %x, want %x", got.parts, want)
	}
}
