package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/containerd/api/types"
	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"
)

// mountRoot mounts what containerd's snapshotter says on a container's root, one over
// the other. None is a root that is there already.
func mountRoot(mounts []*types.Mount, target string) (err error) {
	if len(mounts) == 0 {
		return nil
	}
	if err := os.MkdirAll(target, 0o711); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unmountRoot(target)
		}
	}()
	for _, m := range mounts {
		if err := mountOne(m, target); err != nil {
			return fmt.Errorf("mount %s (%s) on %s: %w", m.Source, m.Type, target, err)
		}
	}
	return nil
}

// pageOptions are the most bytes of options that mount(2) takes, less the zero.
var pageOptions = os.Getpagesize() - 1

func mountOne(m *types.Mount, target string) error {
	if m.Target != "" { // containerd 2: below the root
		inside, err := filepath.Rel("/", filepath.Clean("/"+m.Target))
		if err != nil {
			return err
		}
		target = filepath.Join(target, inside)
	}
	options := strings.Join(m.Options, ",")
	if len(options) <= pageOptions {
		return mount.Mount(m.Source, target, m.Type, options)
	}
	base, shorter := shorten(m.Options)
	if base == "" || len(shorter) > pageOptions {
		return fmt.Errorf("its options have %d bytes, and the kernel takes %d", len(options), pageOptions)
	}
	return in(base, func() error { return mount.Mount(m.Source, target, m.Type, shorter) })
}

// shorten takes from an overlay's options the directory that all its layers are below.
func shorten(options []string) (base, shorter string) {
	var layers []string
	for _, o := range options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			layers = strings.Split(dirs, ":")
		}
	}
	if len(layers) == 0 {
		return "", ""
	}
	base = filepath.Dir(layers[0])
	for _, l := range layers {
		for base != "/" && !strings.HasPrefix(l, base+"/") {
			base = filepath.Dir(base)
		}
	}
	if base == "/" || base == "." {
		return "", ""
	}
	for i := range layers {
		layers[i] = strings.TrimPrefix(layers[i], base+"/")
	}
	list := append([]string{}, options...)
	for i, o := range list {
		if strings.HasPrefix(o, "lowerdir=") {
			list[i] = "lowerdir=" + strings.Join(layers, ":")
		}
	}
	return base, strings.Join(list, ",")
}

// in calls f with a working directory that no other thread has.
func in(dir string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			done <- fmt.Errorf("chdir %s: %w", dir, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// unmountRoot undoes mountRoot, however often something was mounted.
func unmountRoot(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		}
		return fmt.Errorf("unmount %s: %w", target, err)
	}
}
