// Package linux builds the guest kernel from Debian's linux-source package: a
// tinyconfig with the fragments of config/ laid over it, one a purpose. The
// result is kept in the cache under the version of the source and the fragments.
package linux

import (
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/kernels/cache"
	"bulkhead/kernels/debian"
)

// sourcePackage is a metapackage: the source of this Debian's own kernel.
const sourcePackage = "linux-source"

//go:embed config/*.config
var fragments embed.FS

// Image is a built kernel.
type Image struct {
	ELF     string // the file vmlinux, with PVH note, without symbols and padding
	BzImage string
	Symbols string // the file System.map: addresses of functions
	Config  string // the whole configuration
	Source  string // linux-source-6.1 6.1.192-2
}

// Find is the kernel that the fragments and the source in the cache make, if
// it has been built.
func Find() (Image, bool, error) {
	source, found, err := debian.Find(sourcePackage)
	if err != nil || !found {
		return Image{}, false, err
	}
	key, err := key(source)
	if err != nil {
		return Image{}, false, err
	}
	dir, found, err := cache.Find("kernel", key)
	return image(dir, source), found, err
}

// Build is the kernel that the fragments make; it is built if it is not in the
// cache, with progress written to log.
func Build(ctx context.Context, log io.Writer) (Image, error) {
	source, err := debian.Fetch(ctx, sourcePackage)
	if err != nil {
		return Image{}, err
	}
	key, err := key(source)
	if err != nil {
		return Image{}, err
	}
	dir, err := cache.Fill(ctx, "kernel", key, func(dir string) error {
		return build{ctx: ctx, log: log, source: source, out: dir}.run()
	})
	if err != nil {
		return Image{}, err
	}
	return image(dir, source), nil
}

func image(dir string, source debian.Package) Image {
	return Image{
		ELF:     filepath.Join(dir, "vmlinux"),
		BzImage: filepath.Join(dir, "bzImage"),
		Symbols: filepath.Join(dir, "System.map"),
		Config:  filepath.Join(dir, "config"),
		Source:  source.Name + " " + source.Version,
	}
}

// key names all that a kernel is made from. The compiler is left out: another
// one makes a kernel that is as good.
func key(source debian.Package) (string, error) {
	parts := []string{"2", source.Name, source.Version}
	err := eachFragment(func(name, text string) error {
		parts = append(parts, name, text)
		return nil
	})
	return cache.Key(parts...), err
}

// eachFragment calls do for each fragment, by name.
func eachFragment(do func(name, text string) error) error {
	return fs.WalkDir(fragments, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fragments.ReadFile(name)
		if err != nil {
			return err
		}
		return do(filepath.Base(name), string(text))
	})
}

// unmet is the lines of a fragment that config, a whole configuration, does not
// fulfil: an option that the source does not have, or one whose needs are off.
func unmet(fragment, config string) []string {
	set := map[string]string{}
	for line := range strings.Lines(config) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			set[name] = value
		}
	}
	var lines []string
	for line := range strings.Lines(fragment) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		got, on := set[name]
		if !on {
			got = "n"
		}
		if got != value {
			lines = append(lines, line)
		}
	}
	return lines
}

func write(name, text string) error {
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	return nil
}
