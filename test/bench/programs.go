package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed testdata/programs.sh
var programs []byte

// hostRoot is this machine's root file system under an overlay, as an engine gives it to a
// container, so that each runtime finds the programs that are installed here and writes
// nothing to it.
type hostRoot struct{ dir, merged string }

// newHostRoot mounts it below dir.
func newHostRoot(dir string) (h hostRoot, err error) {
	h = hostRoot{filepath.Join(dir, "host"), filepath.Join(dir, "host/merged")}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return h, err
	}
	// What is above must not be on an overlay, nor below itself.
	if err := unix.Mount("bench", h.dir, "tmpfs", 0, "mode=755"); err != nil {
		return h, fmt.Errorf("mount a tmpfs at %s: %w", h.dir, err)
	}
	for _, name := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(h.dir, name), 0o755); err != nil {
			h.close()
			return h, err
		}
	}
	options := fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%s/work", h.dir, h.dir)
	if err := unix.Mount("bench", h.merged, "overlay", 0, options); err != nil {
		h.close()
		return h, fmt.Errorf("mount an overlay of / at %s: %w", h.merged, err)
	}
	return h, nil
}

func (h hostRoot) close() {
	_ = unix.Unmount(h.merged, unix.MNT_DETACH)
	_ = unix.Unmount(h.dir, unix.MNT_DETACH)
}

// programs measures those that people run: each a script of its own, in a
// container of its own. One that this machine lacks has no row.
func (t *table) programs(c column, runs int) error {
	h, err := newHostRoot(c.dir)
	if err != nil {
		return err
	}
	defer h.close()
	c.root, c.written = h.merged, true
	at := "/bench-work"
	if len(c.runtime) == 0 {
		at = h.merged + at
	}
	if err := os.WriteFile(filepath.Join(h.merged, "programs.sh"), programs, 0o644); err != nil {
		return err
	}
	source, err := zstdSource()
	if err != nil {
		return err
	}
	for _, p := range []struct{ need, name, unit string }{
		{"git", "git status of 5,000 files", "ns"},
		{"python3", "python3 -c pass", "ns"},
		{"gcc", "make -j4 of zstd with gcc -O2, once", "ns"},
		{"make", "make -j4 of 60 files of five lines", "ns"},
		{"redis-server", "redis GET over a unix socket", "/s"},
		{"/usr/lib/postgresql/15/bin/initdb", "pgbench, select only", "/s"},
	} {
		if _, err := exec.LookPath(p.need); err != nil {
			fmt.Fprintf(os.Stderr, "bench: no %s: its row is left out\n", p.need)
			continue
		}
		args := []string{"bin/sh", "/programs.sh", filepath.Base(p.need), at, strconv.Itoa(runs), source}
		if len(c.runtime) == 0 {
			args[1] = h.merged + args[1]
		}
		cmd, err := c.command("run", "program-"+filepath.Base(p.need)+"-"+c.name, args...)
		if err != nil {
			return err
		}
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w\n%s%s", p.name, err, out.String(), errs.String())
		}
		var values []float64
		for _, word := range strings.Fields(out.String()) {
			value, err := strconv.ParseFloat(word, 64)
			if err != nil {
				return fmt.Errorf("%s: printed %q", p.name, word)
			}
			values = append(values, value)
		}
		t.add(c.name, p.name, p.unit, values)
	}
	return nil
}

// zstdModule has a medium project in C in one directory: 39 files that are compiled, 78,000
// lines with what they include.
const zstdModule = "github.com/DataDog/zstd@v1.5.6"

// zstdSource is where that lies, fetched if it was not there.
func zstdSource() (string, error) {
	cmd := exec.Command("go", "mod", "download", "-json", zstdModule)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("fetch %s, to be compiled: %w", zstdModule, err)
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		return "", fmt.Errorf("go mod download of %s: %w", zstdModule, err)
	}
	return m.Dir, nil
}
