package lab

import (
	"fmt"
	"strconv"
	"strings"
)

const qemu = "qemu-system-x86_64"

// arguments is QEMU's command line.
func (m Machine) arguments(job Job, base base, image string, lines *wires) []string {
	cpus, memory := m.CPUs, m.Memory
	if memory == 0 {
		memory = 1024
	}
	if cpus == 0 {
		cpus = 1
	}
	args := []string{
		"-M", "q35", "-cpu", "EPYC,+svm,+npt", "-m", strconv.Itoa(memory), "-smp", strconv.Itoa(cpus),
		"-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", base.kernel, "-initrd", image,
		"-append", m.commandLine(job),
		"-device", "virtio-serial-pci",
		"-device", "virtio-rng-pci",
	}
	if m.Icount {
		args = append(args, "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off")
	} else {
		args = append(args, "-accel", "tcg,thread=multi")
	}
	if job.Terminal {
		args = append(args, "-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console", "-mon", "chardev=console")
	}
	for i, wire := range lines.all {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", wire.name, 3+i))
		switch wire.name {
		case "console":
			args = append(args, "-serial", "chardev:console")
		case monitorName:
			args = append(args, "-mon", "chardev="+monitorName+",mode=readline")
		default:
			args = append(args, "-device", fmt.Sprintf("virtserialport,chardev=%s,name=%[1]s", wire.name))
		}
	}
	if m.Network {
		args = append(args, "-nic", "user,model=virtio-net-pci")
	}
	for _, share := range m.shares(job, base) {
		args = append(args, share.arguments()...)
	}
	return args
}

// kernelArgs ask for a panic to end the machine (by a triple fault: with KVM loaded
// the keyboard controller's reset hangs), and for no work that only
// a machine in use needs: no wiping of memory, no self-tests, no security modules.
const kernelArgs = "console=ttyS0 quiet panic=-1 reboot=t mitigations=off init_on_alloc=0 rcupdate.rcu_expedited=1 " +
	"cryptomgr.notests lsm= random.trust_cpu=on no_timer_check audit=0"

func (m Machine) commandLine(job Job) string {
	line := kernelArgs
	if job.Terminal {
		line += " lab.terminal"
	}
	if m.Network {
		line += " lab.network"
	}
	if m.KernelArgs != "" {
		line += " " + m.KernelArgs
	}
	return line
}

// share is a Share with the name that both sides call it by.
type share struct {
	Share
	tag string
}

// shares is every directory that the machine sees, the kernel's modules first.
func (m Machine) shares(job Job, base base) []share {
	all := []share{{Share{base.modules, "", true}, "modules"}}
	if m.HostRoot {
		all = append(all, share{Share{"/", "/", true}, "root"})
	}
	for i, s := range job.Shares {
		all = append(all, share{s, "share" + strconv.Itoa(i)})
	}
	return all
}

func (s share) arguments() []string {
	// QEMU reads a comma in a value as two.
	path := strings.ReplaceAll(s.Host, ",", ",,")
	fsdev := fmt.Sprintf("local,id=%s,path=%s,security_model=none,multidevs=remap", s.tag, path)
	if s.ReadOnly {
		fsdev += ",readonly=on"
	}
	return []string{"-fsdev", fsdev, "-device", fmt.Sprintf("virtio-9p-pci,fsdev=%s,mount_tag=%[1]s", s.tag)}
}

// mounts is /lab/mounts: a line a share, its tag, mode and place.
func (m Machine) mounts(job Job, base base) string {
	var lines strings.Builder
	for _, s := range m.shares(job, base)[1:] {
		mode := "rw"
		if s.ReadOnly {
			mode = "ro"
		}
		fmt.Fprintf(&lines, "%s %s %s\n", s.tag, mode, s.Inside)
	}
	return lines.String()
}
