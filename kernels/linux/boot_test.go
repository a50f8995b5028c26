package linux

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"bulkhead/kernels/debian"
)

const (
	qemu    = "qemu-system-x86_64"
	busybox = "/bin/busybox"
)

// looks is the init: what it finds of the machine, and the end. By a triple fault
// (reboot=t), for which -no-reboot ends QEMU.
const looks = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
echo "release $(/bin/busybox uname -r)"
echo "cpus $(/bin/busybox nproc)"
for driver in /sys/bus/virtio/drivers/*; do
	for device in $driver/virtio*; do
		[ -e $device ] && echo "driver ${driver##*/}"
	done
done
echo "file systems" $(/bin/busybox sed 's/^nodev//' /proc/filesystems)
echo finished
/bin/busybox reboot -f
`

// TestBoots boots what make kernel and make kernel-debian made on a machine that is none of ours:
// QEMU's microvm, emulated. ACPI is off there: kernels/README.md says why.
func TestBoots(t *testing.T) {
	for _, need := range []struct{ program, pkg string }{{qemu, "qemu-system-x86"}, {busybox, "busybox-static"}} {
		if _, err := exec.LookPath(need.program); err != nil {
			t.Skipf("needs %s (apt-get install %s): %v", need.program, need.pkg, err)
		}
	}
	initrd := writeInitrd(t)
	ours, found, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := debian.FetchGuest(t.Context())
	if err != nil {
		t.Log("without Debian's kernel:", err)
	}
	// Debian's reads no MP table, and no devices from its command line.
	drivers := []string{"cpus 2", "driver virtio_blk", "driver virtio_net", "driver virtio_rng", "driver virtio_console", "driver virtio_balloon", "virtiofs", "erofs", "overlay", "ext4"}
	cases := []struct {
		name, path string
		found      bool
		want       []string
	}{
		{"ELF", ours.ELF, found, drivers},
		{"bzImage", ours.BzImage, found, drivers},
		{"Debian's", theirs.Image, theirs.Image != "", []string{"release " + theirs.Release}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !c.found {
				t.Skip("it is not built: make kernel, make kernel-debian")
			}
			out := boot(t, c.path, initrd)
			for _, want := range append(c.want, "finished") {
				if !strings.Contains(out, want) {
					t.Errorf("no %q", want)
				}
			}
			if t.Failed() {
				t.Logf("it said:\n%s", out)
			}
		})
	}
}

// boot is what a kernel prints on a microvm with a device of each kind.
func boot(t *testing.T, kernel, initrd string) string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	// A kernel that hangs is told from one that is slow.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-M", "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,auto-kernel-cmdline=on",
		"-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "256M", "-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 reboot=t",
		"-drive", "id=disk,if=none,format=raw,file="+disk, "-device", "virtio-blk-device,drive=disk",
		"-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net",
		"-device", "virtio-rng-device", "-device", "virtio-serial-device", "-device", "virtio-balloon-device")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %v (%v)", cmd, err, context.Cause(ctx))
	}
	return out.String()
}

// writeInitrd is an archive with busybox and the init.
func writeInitrd(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	records := []cpio.Record{
		cpio.Directory("bin", 0o755), cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.StaticFile("bin/busybox", string(program), 0o755), cpio.StaticFile("init", looks, 0o755),
	}
	for _, r := range records {
		if err := w.WriteRecord(r); err != nil {
			t.Fatal(fmt.Errorf("write an initramfs: %w", err))
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
