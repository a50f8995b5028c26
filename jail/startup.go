package jail

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Startup is the text and the constants of the program itself. Every package of it is
// initialized once, here and there, so that most of both gets mapped at the start, of which
// a process that waits for a container needs a tenth.
type Startup struct{ parts []part }

type part struct{ start, end uintptr }

// StartupPages finds them in /proc/self/maps, for as long as that can be read; none
// where it cannot.
func StartupPages() Startup {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return Startup{}
	}
	defer f.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return Startup{}
	}
	return startupPages(f, program)
}

// startupPages takes the mappings of program that nobody writes to (proc_pid_maps(5)).
func startupPages(maps io.Reader, program string) (s Startup) {
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		where, rest, _ := strings.Cut(lines.Text(), " ")
		from, to, _ := strings.Cut(where, "-")
		if !strings.HasPrefix(rest, "r-xp ") && !strings.HasPrefix(rest, "r--p ") || !strings.HasSuffix(rest, " "+program) {
			continue
		}
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil {
			s.parts = append(s.parts, part{uintptr(start), uintptr(end)})
		}
	}
	return s
}

// Drop gives the pages back. They stay in the host's page cache, and each comes back when
// it is touched.
func (s Startup) Drop() {
	for _, p := range s.parts {
		// An error leaves the pages where they are, which is no worse than before.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, p.start, p.end-p.start, unix.MADV_DONTNEED)
	}
}
