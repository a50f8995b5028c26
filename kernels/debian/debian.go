// Package debian fetches packages from this machine's Debian mirror and unpacks
// them into the cache. Nothing is installed, and root is not needed: apt-get
// download and dpkg-deb -x do the work.
package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"bulkhead/kernels/cache"
)

// kind is the folder of the cache that holds unpacked packages, one under each
// name that was asked for: what was fetched once is not asked for again.
const kind = "debian"

// Package is an unpacked package.
type Package struct {
	Name string // linux-image-6.1.0-56-cloud-amd64
	Dir  string // its tree
	// Version is the one that was fetched. A newer one is fetched once the
	// entry is gone from the cache.
	Version string
}

// Fetch is the package that name means, unpacked: of a metapackage (linux-source,
// linux-image-cloud-amd64) the one package that it depends on.
func Fetch(ctx context.Context, name string) (Package, error) {
	dir, err := cache.Fill(ctx, kind, name, func(dir string) error { return fetch(ctx, name, dir) })
	if err != nil {
		return Package{}, err
	}
	return read(name, dir)
}

// Find is what Fetch(name) has fetched before, if it has.
func Find(name string) (Package, bool, error) {
	dir, found, err := cache.Find(kind, name)
	if err != nil || !found {
		return Package{}, false, err
	}
	pkg, err := read(name, dir)
	return pkg, err == nil, err
}

// read is the package in a directory that fetch filled.
func read(name, dir string) (Package, error) {
	origin, err := os.ReadFile(filepath.Join(dir, "origin"))
	if err != nil {
		return Package{}, fmt.Errorf("debian: package %s: %w: delete %s", name, err, dir)
	}
	fields := strings.Fields(string(origin))
	if len(fields) != 2 {
		return Package{}, fmt.Errorf("debian: package %s: %s/origin is not a name and a version: delete %s", name, dir, dir)
	}
	return Package{Name: fields[0], Version: fields[1], Dir: filepath.Join(dir, "tree")}, nil
}

// fetch fills dir with the package's tree and its origin: its real name and its version.
func fetch(ctx context.Context, name, dir string) error {
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("debian: fetch package %s: %s is not on PATH: a Debian or Ubuntu system is needed", name, tool)
		}
	}
	name, err := resolve(ctx, name)
	if err != nil {
		return err
	}
	if _, err := output(ctx, dir, "apt-get", "download", "-qq", name); err != nil {
		return fmt.Errorf("debian: fetch package %s: %w: as root: apt-get update", name, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("debian: fetch package %s: apt-get download left %d files", name, len(files))
	}
	version, err := output(ctx, dir, "dpkg-deb", "-f", files[0], "Version")
	if err != nil {
		return fmt.Errorf("debian: read package %s: %w", files[0], err)
	}
	if _, err := output(ctx, dir, "dpkg-deb", "-x", files[0], "tree"); err != nil {
		return fmt.Errorf("debian: unpack package %s: %w", files[0], err)
	}
	if err := os.Remove(files[0]); err != nil {
		return fmt.Errorf("debian: unpack package %s: %w", name, err)
	}
	origin := name + " " + strings.TrimSpace(version) + "\n"
	if err := os.WriteFile(filepath.Join(dir, "origin"), []byte(origin), 0o644); err != nil {
		return fmt.Errorf("debian: unpack package %s: %w", name, err)
	}
	return nil
}

// resolve follows a metapackage to what it stands for. A package that has more
// than its documentation is no metapackage, but only its contents would tell;
// the kernel team's names do too.
func resolve(ctx context.Context, name string) (string, error) {
	if !strings.HasPrefix(name, "linux-") {
		return name, nil
	}
	depends, err := output(ctx, "", "apt-cache", "depends", "--important", name)
	if err != nil {
		return "", fmt.Errorf("debian: look up package %s: %w: as root: apt-get update", name, err)
	}
	for line := range strings.Lines(depends) {
		on, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && strings.HasPrefix(on, metaStem(name)) {
			return on, nil
		}
	}
	return name, nil
}

// metaStem is what a package's name has in common with its metapackage's:
// linux-image-6.1.0-56-amd64 with linux-image-amd64.
func metaStem(name string) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(name, "linux-"), "-")
	return "linux-" + kind + "-"
}

// output runs a command and is what it prints. LC_ALL=C: its words are parsed.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &complaint
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		if line := lastLine(complaint.String()); line != "" {
			return "", fmt.Errorf("%s: %w: %s", name, err, line)
		}
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return out.String(), nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
