package debian

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/kernels/cache"
)

// Kernel is one of Debian's kernels.
type Kernel struct {
	Release string // 6.1.0-56-amd64
	Version string // of its package
	Image   string // a bzImage
	Modules string // a directory, lib/modules/RELEASE, with modules.dep and modules.alias
	depends map[string][]string
}

// FetchKernel is the kernel of an image package (linux-image-amd64,
// linux-image-cloud-amd64).
func FetchKernel(ctx context.Context, name string) (Kernel, error) {
	pkg, err := Fetch(ctx, name)
	if err != nil {
		return Kernel{}, err
	}
	release := strings.TrimPrefix(pkg.Name, "linux-image-")
	k := Kernel{
		Release: release,
		Version: pkg.Version,
		Image:   filepath.Join(pkg.Dir, "boot", "vmlinuz-"+release),
		Modules: filepath.Join(pkg.Dir, "lib", "modules", release),
	}
	for _, name := range []string{k.Image, k.Modules} {
		if _, err := os.Stat(name); err != nil {
			return Kernel{}, fmt.Errorf("debian: package %s: %w", pkg.Name, err)
		}
	}
	if err := k.index(ctx, pkg.Dir); err != nil {
		return Kernel{}, err
	}
	return k, k.readDepends()
}

// index makes modules.dep and modules.alias, which a package's script would make
// at its installation.
func (k *Kernel) index(ctx context.Context, tree string) error {
	indexed := func() bool {
		_, err := os.Stat(filepath.Join(k.Modules, "modules.dep"))
		return err == nil
	}
	if indexed() {
		return nil
	}
	busybox, err := Fetch(ctx, "busybox-static")
	if err != nil {
		return err
	}
	unlock, err := cache.Lock(ctx, kind)
	if err != nil {
		return err
	}
	defer unlock()
	if indexed() {
		return nil
	}
	if _, err := output(ctx, tree, filepath.Join(busybox.Dir, "bin", "busybox"), "depmod", "-b", tree, k.Release); err != nil {
		return fmt.Errorf("debian: index modules of %s: %w", k.Release, err)
	}
	return nil
}

// readDepends reads modules.dep: "module: what it needs, directly or not".
func (k *Kernel) readDepends() error {
	name := filepath.Join(k.Modules, "modules.dep")
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("debian: modules of %s: %w", k.Release, err)
	}
	defer file.Close()
	k.depends = map[string][]string{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if module, needs, ok := strings.Cut(lines.Text(), ":"); ok {
			k.depends[module] = strings.Fields(needs)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("debian: read %s: %w", name, err)
	}
	return nil
}

// Order is the files of the modules called names and of all that they need, as
// paths below Modules, in an order in which each can be loaded. What is built
// into the kernel is left out.
func (k *Kernel) Order(names ...string) ([]string, error) {
	builtin, err := os.ReadFile(filepath.Join(k.Modules, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("debian: modules of %s: %w", k.Release, err)
	}
	files := map[string]string{}
	for file := range k.depends {
		files[moduleName(file)] = file
	}
	within := map[string]bool{}
	for line := range strings.Lines(string(builtin)) {
		within[moduleName(strings.TrimSpace(line))] = true
	}
	var order []string
	seen := map[string]bool{}
	var add func(file string)
	add = func(file string) {
		if seen[file] {
			return
		}
		seen[file] = true
		for _, needed := range k.depends[file] {
			add(needed)
		}
		order = append(order, file)
	}
	for _, name := range names {
		file, ok := files[moduleName(name)]
		switch {
		case ok:
			add(file)
		case !within[moduleName(name)]:
			return nil, fmt.Errorf("debian: kernel %s has no module %s", k.Release, name)
		}
	}
	return order, nil
}

// moduleName is the name that lsmod shows for a file: virtio-rng.ko is virtio_rng.
func moduleName(file string) string {
	base, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(base, "-", "_")
}
