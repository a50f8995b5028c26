package debian

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"bulkhead/kernels/cache"
)

// GuestPackage is the kernel that Debian makes for guests.
const GuestPackage = "linux-image-cloud-amd64"

// moduleList is where guestinit looks for modules to load, a path a line
// (guestinit/config.ModuleList).
const moduleList = "lib/modules/modules.list"

// guestModules are the drivers of our machine's devices and the file systems of
// its disks, which Debian does not build in.
var guestModules = []string{
	"virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon",
	"vmw_vsock_virtio_transport", "virtiofs", "ext4", "overlay", "erofs", "loop", "tun", "veth",
}

// Guest is Debian's kernel as a guest of ours boots it.
type Guest struct {
	Release string
	Image   string // a bzImage
	Modules string // a cpio: a part of the initramfs, with the modules and the list of them
}

// FetchGuest fetches Debian's cloud kernel and packs the modules that a guest needs.
func FetchGuest(ctx context.Context) (Guest, error) {
	kernel, err := FetchKernel(ctx, GuestPackage)
	if err != nil {
		return Guest{}, err
	}
	order, err := kernel.Order(guestModules...)
	if err != nil {
		return Guest{}, err
	}
	key := cache.Key(append([]string{"1", kernel.Release, kernel.Version}, order...)...)
	dir, err := cache.Fill(ctx, "debian-guest", key, func(dir string) error {
		if err := kernel.pack(order, filepath.Join(dir, "modules.cpio")); err != nil {
			return fmt.Errorf("debian: pack modules of %s: %w", kernel.Release, err)
		}
		return nil
	})
	if err != nil {
		return Guest{}, err
	}
	return Guest{Release: kernel.Release, Image: kernel.Image, Modules: filepath.Join(dir, "modules.cpio")}, nil
}

// pack writes files, modules in their order of loading, and the list to name.
func (k *Kernel) pack(files []string, name string) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	dir := "lib/modules/" + k.Release
	records := []cpio.Record{
		cpio.Directory("lib", 0o755), cpio.Directory("lib/modules", 0o755), cpio.Directory(dir, 0o755),
	}
	var list strings.Builder
	for _, file := range files {
		contents, err := os.ReadFile(filepath.Join(k.Modules, file))
		if err != nil {
			return err
		}
		inside := dir + "/" + filepath.Base(file)
		records = append(records, cpio.StaticFile(inside, string(contents), 0o644))
		list.WriteString("/" + inside + "\n")
	}
	records = append(records, cpio.StaticFile(moduleList, list.String(), 0o644))
	writer := cpio.Newc.Writer(out)
	if err := cpio.WriteRecords(writer, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(writer); err != nil {
		return err
	}
	return out.Close()
}
