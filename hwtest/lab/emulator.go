package lab

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"bulkhead/kernels/debian"
)

// emulator is the QEMU that a machine runs on.
type emulator struct {
	path string
	// threads has a thread for each processor of the machine. QEMU before 8.1
	// must not: it reads code before it marks the page as translated, and when another
	// processor writes between the two, it goes on executing what was there before.
	// Linux patches its own code at any time (static keys, Documentation/staging/static-keys.rst):
	// the lab's kernel hung in a breakpoint that was no longer there, and guests in
	// the lab, one in twenty, span or ended in a triple fault.
	threads bool
}

// sound is the first version of QEMU without that fault
// ("accel/tcg: Always lock pages before translation").
var sound = version{8, 1}

// backported are the packages of Debian's backports that make up a QEMU; the
// libraries that it needs are those of the QEMU that must be installed.
var backported = []string{"qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"}

// findEmulator is the QEMU on PATH if it is sound, or else a newer one from Debian's
// backports, or else, where there are none to be had, the one on PATH with one thread,
// which takes up to twice as long.
func findEmulator(ctx context.Context) (emulator, error) {
	path, err := exec.LookPath(qemu)
	if err != nil {
		return emulator{}, Check()
	}
	installed, err := askVersion(ctx, path)
	if err != nil {
		return emulator{}, err
	}
	if !installed.before(sound) {
		return emulator{path, true}, nil
	}
	pkg, err := debian.FetchBackports(ctx, backported...)
	if err != nil {
		return emulator{path, false}, ctx.Err()
	}
	newer := filepath.Join(pkg.Dir, "usr/bin", qemu)
	// It may want libraries that are not here.
	if v, err := askVersion(ctx, newer); err != nil || v.before(sound) {
		return emulator{path, false}, ctx.Err()
	}
	return emulator{newer, true}, nil
}

type version struct{ major, minor int }

func (v version) before(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

var versionLine = regexp.MustCompile(`^QEMU emulator version (\d+)\.(\d+)`)

func askVersion(ctx context.Context, path string) (version, error) {
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return version{}, fmt.Errorf("lab: ask %s for its version: %w", path, err)
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return version{}, fmt.Errorf("lab: ask %s for its version: it says %q", path, out)
	}
	var v version
	v.major, _ = strconv.Atoi(string(match[1])) // they are digits
	v.minor, _ = strconv.Atoi(string(match[2]))
	return v, nil
}
