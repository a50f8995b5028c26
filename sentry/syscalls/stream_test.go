package syscalls

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestFcntlArgument(t *testing.T) {
	for command, want := range map[int]string{unix.F_SETLKW: "F_SETLKW", unix.F_DUPFD_CLOEXEC: "F_DUPFD_CLOEXEC", 4711: "4711", -1: "-1"} {
		if got := argument(nil, 'c', &Args{0, uint64(uint32(command))}, 1); got != want {
			t.Errorf("command %d is shown as %s, want %s", command, got, want)
		}
	}
}
