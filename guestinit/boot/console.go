package boot

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// openConsole makes the console's own terminal our standard input and output.
// /dev/console, which the kernel gave us, cannot be a controlling terminal
// (drivers/tty/tty_io.c, tty_open).
func (g *guest) openConsole() error {
	name := g.config.Console
	if name == "" {
		name = activeConsole("/sys/class/tty/console/active")
	}
	path := "/dev/" + strings.TrimPrefix(name, "/dev/")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the console %s: %w", path, err)
	}
	defer unix.Close(fd)
	if g.config.Rows != 0 && g.config.Columns != 0 && isTerminal(fd) {
		size := &unix.Winsize{Row: g.config.Rows, Col: g.config.Columns}
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size); err != nil {
			return fmt.Errorf("set the size of the console %s: %w", path, err)
		}
	}
	for std := range 3 {
		if err := unix.Dup3(fd, std, 0); err != nil {
			return err
		}
	}
	return nil
}

// activeConsole is the one behind /dev/console: the last in the kernel's list
// (Documentation/ABI/testing/sysfs-tty). Without a list or a console it is
// /dev/null, so that a guest without any still runs.
func activeConsole(file string) string {
	b, err := os.ReadFile(file)
	names := strings.Fields(string(b))
	if err != nil || len(names) == 0 {
		return "null"
	}
	return names[len(names)-1]
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
