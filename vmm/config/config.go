// Package config is the description of a machine in a person's words: flags, or
// the same words in a TOML or JSON file. Each word is read by one function,
// whichever way it came; the command line wins over the file, word by word. It
// checks what can be known without touching the host.
package config

import (
	"errors"
	"fmt"
	"slices"
	"time"

	guest "bulkhead/guestinit/config"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/ram"

	"github.com/spf13/pflag"
)

// Machine is the description. Its zero value lacks a kernel; Default has the rest.
type Machine struct {
	Kernel  string
	Initrd  []string
	Cmdline string // "" is DefaultCmdline
	Boot    Protocol
	Init    Init
	Command []string // what guestinit runs in place of a shell

	Bundle    string       // directory of an OCI bundle, or ""
	Container guest.Config // what it says, less its command

	CPUs    int
	Memory  Size
	Backing Backing
	Without []string // CPU features

	Disks   []Disk
	Nets    []Net
	Shares  []Share
	Vsock   Vsock
	Balloon bool
	RNG     bool
	Limits  []Limit

	Console Stream
	Serial  Stream

	SnapshotTo   string
	FromSnapshot string
	API          string
	Timeout      time.Duration
	Seccomp      Seccomp
	Timing       bool
	JSON         bool
	LogLevel     Level
}

// Default is a machine of which nothing is said.
func Default() *Machine {
	return &Machine{
		CPUs: 1, Memory: 256 << 20, Backing: Backing(ram.Anonymous), RNG: true,
		Console: Stream{Kind: "none"}, Serial: Stream{Kind: "stdio"}, Seccomp: "on", Init: "auto",
	}
}

// Flags gives f every word. It is the list of them, in the order of `vmm boot --help`.
func (m *Machine) Flags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringArrayVar(&m.Initrd, "initrd", nil, "initramfs `FILE`, a cpio archive, compressed or not; may be repeated, and the parts are joined")
	f.Var(&m.Init, "init", "`WHICH` init runs: guestinit, added to the initramfs; own, the initramfs has one; or auto, guestinit if there is no --initrd or there is a COMMAND")
	f.StringVar(&m.Bundle, "bundle", "", "run the process of the OCI bundle in `DIR` (config.json and a root file system) on its root, which is shared; with a kernel that lies beside this program, or KERNEL")
	f.StringVar(&m.Cmdline, "cmdline", "", "the kernel's command `LINE`, in place of \""+m.DefaultCmdline()+"\"")
	f.Var(&m.Boot, "boot-protocol", "`PROTOCOL` to enter the kernel with: auto, pvh or linux64")
	f.IntVar(&m.CPUs, "cpus", m.CPUs, fmt.Sprintf("number of CPUs, 1 to %d", machine.MostCPUs))
	f.Var(&m.Memory, "memory", "`SIZE` of memory, as 256M or 6G")
	f.Var(&m.Backing, "memory-backing", "what is behind it: `KIND` anonymous (with transparent huge pages), memfd or hugetlb")
	f.StringSliceVar(&m.Without, "cpu-without", nil, "CPU `FEATURES` that the guest does not see, as avx512f,sse4_2")
	f.Var(newList(&m.Disks, parseDisk), "disk", "`PATH[,ro][,id=NAME][,queues=N][,direct][,writethrough]` of a raw file or block device; may be repeated")
	f.Var(newList(&m.Nets, ParseNet), "net", "`tap=NAME[,id=NAME][,mac=MAC][,mtu=N][,queues=N][,ip=ADDRESS/BITS[,gw=ADDRESS][,dns=ADDRESS]]`, or none; may be repeated; the addresses are the guest's, given to it by guestinit")
	f.Var(newList(&m.Shares, parseShare), "share", "`TAG=DIR[,ro][,at=PATH]`: a directory of the host by virtio-fs, which guestinit mounts at PATH, else /mnt/TAG; may be repeated")
	f.Var(&m.Vsock, "vsock", "`CID=N,uds=PATH`: sockets between guest and host; PATH takes \"CONNECT port\", PATH_port is where the guest's arrive")
	f.BoolVar(&m.Balloon, "balloon", m.Balloon, "a balloon, by which the host can take memory back")
	f.BoolVar(&m.RNG, "rng", m.RNG, "entropy from the host")
	f.Var(newList(&m.Limits, parseLimit), "rate-limit", "`ID:bytes=10M/s,ops=1000/s[,burst=BYTES][,ops-burst=N]` for the disk or net with that id; may be repeated")
	f.Var(&m.Console, "console", "where hvc0, a virtio console, goes: `WHERE` is stdio, pty, file=PATH or none")
	f.Var(&m.Serial, "serial", "where ttyS0, the first serial port, goes: `WHERE` as above (stdio unless --console is)")
	f.StringVar(&m.SnapshotTo, "snapshot-to", "", "on SIGUSR1, write a snapshot to `FILE` and end")
	f.StringVar(&m.FromSnapshot, "from-snapshot", "", "go on where the snapshot in `FILE` was taken, with the same devices")
	f.StringVar(&m.API, "api", "", "serve HTTP on the Unix socket `PATH`")
	f.DurationVar(&m.Timeout, "timeout", 0, "end the guest after `TIME`, as 90s, with exit code 124")
	f.Var(&m.Seccomp, "seccomp", "`on`, off, or log: what becomes of system calls that the VMM does not need")
	f.BoolVar(&m.Timing, "timing", false, "print when what was reached, in milliseconds")
	f.BoolVar(&m.JSON, "json", false, "print timing and ending as JSON")
	f.Var(&m.LogLevel, "log-level", "`LEVEL` of what is told on stderr: debug, info, warn or error")
}

// DefaultCmdline is the kernel's command line where none is given: the console on
// what people see, quiet; a panic ends the machine at once, and no time is lost on
// buses and ports that are not there.
func (m *Machine) DefaultCmdline() string {
	console := "ttyS0"
	if m.Console.Kind != "none" {
		console = "hvc0"
	}
	return "console=" + console + quiet
}

const quiet = " quiet panic=-1 pci=off 8250.nr_uarts=1"

// Check finds contradictions, and what no machine can be.
func (m *Machine) Check() error {
	checks := []func() error{m.checkSource, m.checkSize, m.checkNames, m.checkLimits, m.checkStreams, m.checkNets}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) checkSource() error {
	switch {
	case m.Bundle != "" && m.FromSnapshot != "":
		return fmt.Errorf("--from-snapshot %s goes on with what ran there; it cannot run --bundle %s", m.FromSnapshot, m.Bundle)
	case m.Bundle != "" && m.Init == "own":
		return errors.New("--init own: a bundle is run by guestinit")
	case m.Kernel == "" && m.FromSnapshot == "" && m.Bundle == "":
		return errors.New("no kernel: give its path, or --from-snapshot FILE")
	case m.Kernel != "" && m.FromSnapshot != "":
		return fmt.Errorf("--from-snapshot %s has its kernel in memory already; leave out %s", m.FromSnapshot, m.Kernel)
	case len(m.Command) > 0 && m.FromSnapshot != "":
		return fmt.Errorf("--from-snapshot %s goes on with what ran there; it cannot run %q", m.FromSnapshot, m.Command)
	case len(m.Command) > 0 && m.Init == "own":
		return fmt.Errorf("--init own: the command %q is for guestinit; give yours on --cmdline", m.Command)
	case m.Timeout < 0:
		return fmt.Errorf("--timeout %v: a time to come, as 90s", m.Timeout)
	}
	return nil
}

func (m *Machine) checkSize() error {
	if m.CPUs < 1 || m.CPUs > machine.MostCPUs {
		return fmt.Errorf("--cpus %d: a guest has 1 to %d", m.CPUs, machine.MostCPUs)
	}
	for _, name := range m.Without {
		if !slices.Contains(machine.FeatureNames(), name) {
			return fmt.Errorf("--cpu-without %s: no such feature; `vmm info` lists them", name)
		}
	}
	return ram.Check(uint64(m.Memory))
}

// checkNames gives devices without an id one, and refuses two of a name.
func (m *Machine) checkNames() error {
	seen := map[string]string{}
	claim := func(id, what string) error {
		if other, twice := seen[id]; twice {
			return fmt.Errorf("%s and %s are both called %q; give one of them another id=", other, what, id)
		}
		seen[id] = what
		return nil
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		if d.ID == "" {
			d.ID = fmt.Sprintf("disk%d", i)
		}
		if err := claim(d.ID, "--disk "+d.Path); err != nil {
			return err
		}
	}
	for i := range m.Nets {
		n := &m.Nets[i]
		if n.ID == "" {
			n.ID = fmt.Sprintf("net%d", i)
		}
		if err := claim(n.ID, "--net tap="+n.TAP); err != nil {
			return err
		}
	}
	for _, s := range m.Shares {
		if err := claim(s.Tag, "--share "+s.Tag+"="+s.Dir); err != nil {
			return err
		}
	}
	for _, own := range []struct {
		id   string
		have bool
	}{{"console", m.Console.Kind != "none"}, {"vsock", m.Vsock.CID != 0}, {"balloon", m.Balloon}, {"rng", m.RNG}} {
		if !own.have {
			continue
		}
		if other, taken := seen[own.id]; taken {
			return fmt.Errorf("%s has the name of another device, %q; give it another", other, own.id)
		}
	}
	return nil
}

func (m *Machine) checkLimits() error {
	limited := map[string]bool{}
	for _, l := range m.Limits {
		if !slices.ContainsFunc(m.Disks, func(d Disk) bool { return d.ID == l.ID }) &&
			!slices.ContainsFunc(m.Nets, func(n Net) bool { return n.ID == l.ID }) {
			return fmt.Errorf("--rate-limit %s: no disk or net has that id (the first disk without one is disk0, the first net net0)", l.ID)
		}
		if limited[l.ID] {
			return fmt.Errorf("--rate-limit %s: given twice", l.ID)
		}
		limited[l.ID] = true
	}
	return nil
}

func (m *Machine) checkStreams() error {
	if m.Console.Kind == "stdio" && m.Serial.Kind == "stdio" {
		if m.Serial.given {
			return errors.New("--console stdio and --serial stdio: only one can have the terminal")
		}
		m.Serial = Stream{Kind: "none"}
	}
	return nil
}

// checkNets refuses addresses that nobody would give the guest.
func (m *Machine) checkNets() error {
	for _, n := range m.Nets {
		if n.Address.IsValid() && !m.Guestinit() {
			return fmt.Errorf("--net tap=%s,ip=%v: the address is for guestinit, and the guest has an init of its own; add --init guestinit, or set it there", n.TAP, n.Address)
		}
	}
	return nil
}

// Guestinit tells whether the guest's init is ours.
func (m *Machine) Guestinit() bool {
	return m.Init == "guestinit" || m.Init == "auto" && (len(m.Initrd) == 0 || len(m.Command) > 0 || m.Bundle != "")
}

// LimitOf is what was said for a device.
func (m *Machine) LimitOf(id string) Limit {
	for _, l := range m.Limits {
		if l.ID == id {
			return l
		}
	}
	return Limit{ID: id}
}
