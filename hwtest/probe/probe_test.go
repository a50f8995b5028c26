package probe

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"bulkhead/hwtest/cpuid"
	"bulkhead/kvm"
)

// host is one of files and CPUID leaves; nothing that it is asked for works.
func host(files map[string]string, leaves map[uint32]string, features ...cpuid.Feature) Host {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return Host{
		Files: root,
		CPUID: func(leaf, _ uint32) (a, b, c, d uint32) {
			s := append([]byte(leaves[leaf]), make([]byte, 12)...)
			if leaf == 0x8000_0000 {
				return 0x8000_0000, 0, 0, 0
			}
			le := binary.LittleEndian
			b, c, d = le.Uint32(s), le.Uint32(s[4:]), le.Uint32(s[8:])
			if leaf == 0 {
				c, d = d, c
			}
			return 0, b, c, d
		},
		Has:   func(f cpuid.Feature) bool { return slices.Contains(features, f) },
		NoKVM: errors.New("no such file"),
		Try: Attempts{
			Open: func(p string) error {
				if p == "/dev/vhost-net" {
					return unix.EACCES
				}
				return unix.ENOENT
			},
			Userfaultfd: func(flags int) error {
				if flags == userModeOnly {
					return nil
				}
				return unix.EPERM
			},
			HugePages: func() (bool, error) { return false, unix.ENOMEM },
			Uname:     func() (string, string, string) { return "6.1", "#1", "x86_64" },
		},
	}
}

func TestMachines(t *testing.T) {
	const dmi = "sys/class/dmi/id/"
	for _, row := range []struct {
		name   string
		files  map[string]string
		leaves map[uint32]string
		has    []cpuid.Feature
		want   Machine
	}{
		{"metal", map[string]string{dmi + "sys_vendor": "Dell Inc.\n", dmi + "product_name": "PowerEdge R7625\n", dmi + "bios_vendor": "Dell", dmi + "bios_version": "1.2"},
			nil, []cpuid.Feature{cpuid.SVM}, Machine{Maker: "Dell Inc.", Product: "PowerEdge R7625", BIOS: "Dell 1.2"}},
		{"gcp", map[string]string{dmi + "sys_vendor": "Google\n", dmi + "product_name": "Google Compute Engine\n"},
			map[uint32]string{0x4000_0000: "KVMKVMKVM"}, []cpuid.Feature{cpuid.Hypervisor, cpuid.VMX},
			Machine{Virtual: true, Hypervisor: "KVM", Signature: "KVMKVMKVM", Cloud: "Google Cloud", Maker: "Google", Product: "Google Compute Engine"}},
		{"azure", map[string]string{dmi + "sys_vendor": "Microsoft Corporation", dmi + "product_name": "Virtual Machine", dmi + "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"},
			map[uint32]string{0x4000_0000: "Microsoft Hv"}, []cpuid.Feature{cpuid.Hypervisor},
			Machine{Virtual: true, Hypervisor: "Hyper-V", Signature: "Microsoft Hv", Cloud: "Microsoft Azure", Maker: "Microsoft Corporation", Product: "Virtual Machine"}},
		{"hyper-v at home", map[string]string{dmi + "sys_vendor": "Microsoft Corporation", dmi + "product_name": "Virtual Machine"},
			map[uint32]string{0x4000_0000: "Microsoft Hv"}, []cpuid.Feature{cpuid.Hypervisor},
			Machine{Virtual: true, Hypervisor: "Hyper-V", Signature: "Microsoft Hv", Maker: "Microsoft Corporation", Product: "Virtual Machine"}},
		{"firecracker", map[string]string{"sys/firmware/acpi/tables/FACP": "FACP\x00\x00\x00\x00\x00\x00FIRECK....."},
			map[uint32]string{0x4000_0000: "KVMKVMKVM"}, []cpuid.Feature{cpuid.Hypervisor},
			Machine{Virtual: true, Hypervisor: "KVM, Firecracker", Signature: "KVMKVMKVM", ACPI: "FIRECK"}},
		{"the lab", map[string]string{dmi + "sys_vendor": "QEMU", "sys/firmware/acpi/tables/FACP": "FACP\x00\x00\x00\x00\x00\x00BOCHS ....."},
			map[uint32]string{0x4000_0000: "TCGTCGTCGTCG"}, []cpuid.Feature{cpuid.Hypervisor, cpuid.SVM},
			Machine{Virtual: true, Hypervisor: "QEMU's translator (TCG)", Signature: "TCGTCGTCGTCG", Maker: "QEMU", ACPI: "BOCHS"}},
		{"unknown", nil, map[uint32]string{0x4000_0000: "WhoKnowsWhat"}, []cpuid.Feature{cpuid.Hypervisor},
			Machine{Virtual: true, Hypervisor: "unknown (WhoKnowsWhat)", Signature: "WhoKnowsWhat"}},
	} {
		got := host(row.files, row.leaves, row.has...).machine()
		if row.name == "the lab" {
			row.want.Hypervisor = "QEMU's translator (TCG)" // whose VMM is QEMU needs no saying
		}
		if got != row.want {
			t.Errorf("%s:\n got %+v\nwant %+v", row.name, got, row.want)
		}
	}
}

func TestCgroup(t *testing.T) {
	const v1 = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
	const v2 = "31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate,favordynmods\n"
	for _, row := range []struct {
		mounts, version string
		favor           bool
	}{{"", "none", false}, {v1, "v1", false}, {v2, "v2", true}, {v1 + v2, "hybrid", true}, {"rubbish\n1 2 3 - \n", "none", false}} {
		got := host(map[string]string{
			"proc/self/mountinfo": row.mounts, "proc/cgroups": "#subsys_name\ncpu\t3\t1\t1\nrdma\t0\t1\t1\n",
			"sys/fs/cgroup/unified/cgroup.controllers": "memory pids\n",
		}, nil).cgroup()
		if got.Version != row.version || got.FavorDynMods != row.favor {
			t.Errorf("%q: got %+v, want %s", row.mounts, got, row.version)
		}
		if row.version == "hybrid" && !slices.Equal(got.Controllers, []string{"cpu", "memory", "pids"}) {
			t.Errorf("controllers %v", got.Controllers)
		}
	}
}

func TestMMU(t *testing.T) {
	for _, row := range []struct {
		modules []string
		param   string
		want    string
	}{
		{[]string{"kvm", "kvm_intel"}, "kvm_intel/ept", "EPT"}, {[]string{"kvm", "kvm_amd"}, "kvm_amd/npt", "NPT"},
		{[]string{"kvm", "kvm_amd"}, "", "shadow pages"}, {[]string{"kvm", "kvm_pvm"}, "", "shadow pages (PVM)"}, {nil, "", "unknown"},
	} {
		if got := mmu(KVM{Modules: row.modules, Parameters: map[string]string{row.param: "1"}}); got != row.want {
			t.Errorf("%v %s: %s, want %s", row.modules, row.param, got, row.want)
		}
	}
}

// TestNothing is a host where nothing can be read.
func TestNothing(t *testing.T) {
	f := host(nil, nil).Facts()
	if f.KVM.Present || f.KVM.Error != "no such file" || f.Userfaultfd != "user faults only" || f.Memory.Hugetlb == "works" {
		t.Errorf("%+v", f)
	}
	states := map[string]string{}
	for _, d := range f.Devices {
		states[d.Path] = d.State
	}
	if states["/dev/kvm"] != "absent" || states["/dev/vhost-net"] != "permission denied" {
		t.Errorf("%v", states)
	}
}

func TestMissing(t *testing.T) {
	k := KVM{Capabilities: []Capability{{Name: "A", For: []string{"vmm", "firecracker"}}, {Name: "B", Value: 1, For: []string{"vmm"}}}}
	if got := k.Missing(kvm.VMM); !slices.Equal(got, []string{"A"}) {
		t.Errorf("the vmm lacks %v", got)
	}
	if got := k.Missing(kvm.Sentry); got != nil {
		t.Errorf("the sentry lacks %v", got)
	}
}

// TestThis reads the host that the test runs on.
func TestThis(t *testing.T) {
	sys, err := kvm.Open()
	if err == nil {
		defer sys.Close()
	} else {
		sys = nil
	}
	f := This(sys, err).Facts()
	t.Logf("%+v", f)
	if f.CPU.Vendor == "" || f.Kernel.Release == "" || f.Memory.Total == 0 || f.CPU.Online == "" {
		t.Errorf("empty facts: %+v", f)
	}
	if sys != nil && len(f.KVM.Capabilities) != len(kvm.Capabilities) {
		t.Errorf("%d capabilities of %d", len(f.KVM.Capabilities), len(kvm.Capabilities))
	}
}
