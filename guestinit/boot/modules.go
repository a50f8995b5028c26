package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
)

func (g *guest) loadModules() error {
	listed, err := readModuleList(config.ModuleList)
	if err != nil {
		return err
	}
	for _, file := range append(listed, g.config.Modules...) {
		if err := loadModule(file); err != nil {
			return fmt.Errorf("load module %s: %w", file, err)
		}
	}
	return nil
}

// readModuleList is the paths in file, which stand a line each, those that are
// not absolute below its folder. "#" begins a comment.
func readModuleList(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range bytes.Lines(b) {
		name, _, _ := strings.Cut(string(line), "#")
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		paths = append(paths, name)
	}
	return paths, nil
}

// loadModule leaves the unpacking of .xz and .zst to the kernel
// (CONFIG_MODULE_DECOMPRESS): whoever makes the initramfs can as well store
// modules plain, for the initramfs is compressed as a whole.
func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(file) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil // built in, or listed twice
	case errors.Is(err, unix.EOPNOTSUPP) && flags != 0:
		return fmt.Errorf("%w (this kernel cannot unpack modules: store them plain)", err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w (it needs a module that is not before it in %s)", err, config.ModuleList)
	}
	return err
}
