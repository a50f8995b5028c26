package main

import (
	"path/filepath"
	"slices"
)

// guest is what all monitors boot, alike but for what each needs to be told.
type guest struct {
	kernel  string // directory with vmlinux and bzImage
	initrd  string
	cmdline string
	disk    string // a raw file, or ""
	tap     string // or ""
}

// vmm is a machine monitor of the comparison.
type vmm struct {
	name    string
	devices bool // has the devices whose throughput is compared
	command func(dir string, g guest) []string
}

// vmms start a kernel as the ELF file, and those that know better as a bzImage too.
var vmms = []vmm{
	{"vmm", true, ours},
	{"QEMU microvm", true, qemu("vmlinux")},
	{"QEMU microvm bzImage", false, qemu("bzImage")},
	{"gokvm ELF", false, gokvm("vmlinux")},
	{"gokvm bzImage", false, gokvm("bzImage")},
}

const memory = "256M"

// The lab's processor does not tell its hypervisor of a guest's XSETBV (target/i386/tcg), so
// KVM saves less of a guest's registers than the guest uses: no guest is shown the feature.
const without = "xsave"

func ours(dir string, g guest) []string {
	argv := []string{filepath.Join(dir, "vmm"), "boot", "--json", "--memory", memory, "--cpu-without", without,
		"--initrd", g.initrd, "--init", "own", "--cmdline", g.cmdline}
	if g.disk != "" {
		argv = append(argv, "--disk", g.disk)
	}
	if g.tap != "" {
		argv = append(argv, "--net", "tap="+g.tap)
	}
	return append(argv, filepath.Join(g.kernel, "vmlinux"))
}

// qemu is a microvm without what costs a guest time: no PIC, no PIT, no option
// ROMs, no ACPI, since the command line says where devices are. It keeps the clock:
// without one the kernel asks for it 20,000 times.
func qemu(kernel string) func(string, guest) []string {
	return func(_ string, g guest) []string {
		argv := []string{"qemu-system-x86_64",
			"-M", "microvm,accel=kvm,acpi=off,pit=off,pic=off,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=on",
			"-cpu", "host,-" + without, "-m", memory, "-smp", "1",
			"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
			"-kernel", filepath.Join(g.kernel, kernel), "-initrd", g.initrd, "-append", g.cmdline,
		}
		if g.disk != "" {
			argv = append(argv, "-object", "iothread,id=io",
				"-drive", "if=none,id=disk,format=raw,aio=threads,file="+g.disk,
				"-device", "virtio-blk-device,drive=disk,iothread=io")
		}
		if g.tap != "" {
			argv = append(argv, "-netdev", "tap,id=net,script=no,downscript=no,vhost=off,ifname="+g.tap,
				"-device", "virtio-net-device,netdev=net")
		}
		return argv
	}
}

// gokvm has an old PC's interrupts; these are words of its own default.
func gokvm(kernel string) func(string, guest) []string {
	return func(dir string, g guest) []string {
		return []string{filepath.Join(dir, "gokvm"), "boot", "-m", memory,
			"-k", filepath.Join(g.kernel, kernel), "-i", g.initrd, "-p", g.cmdline + " noapic noacpi notsc nowatchdog"}
	}
}

// chosen are the monitors that take part.
func chosen(names []string, devices bool) []vmm {
	var some []vmm
	for _, v := range vmms {
		if (!devices || v.devices) && (len(names) == 0 || slices.Contains(names, v.name)) {
			some = append(some, v)
		}
	}
	return some
}
