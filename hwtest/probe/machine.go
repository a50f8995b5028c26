package probe

import (
	"encoding/binary"
	"io/fs"
	"strings"

	"bulkhead/hwtest/cpuid"
)

// CPU is the processor as this kernel sees it.
type CPU struct {
	Vendor string `json:"vendor"`
	Model  string `json:"model"`
	Online string `json:"online"` // as a list: "0-7"
	SMT    string `json:"smt"`
	VMX    bool   `json:"vmx"` // Intel's virtualization, shown to this kernel
	SVM    bool   `json:"svm"` // AMD's
}

func (h Host) cpu() CPU {
	return CPU{
		Vendor: h.signature(0, false),
		Model:  h.brand(),
		Online: h.line("sys/devices/system/cpu/online"),
		SMT:    h.line("sys/devices/system/cpu/smt/control"),
		VMX:    h.Has(cpuid.VMX),
		SVM:    h.Has(cpuid.SVM),
	}
}

// signature is the twelve letters of a leaf: EBX, EDX, ECX for the processor's
// maker, EBX, ECX, EDX for a hypervisor's.
func (h Host) signature(leaf uint32, inOrder bool) string {
	_, b, c, d := h.CPUID(leaf, 0)
	if !inOrder {
		c, d = d, c
	}
	var s []byte
	for _, r := range []uint32{b, c, d} {
		s = binary.LittleEndian.AppendUint32(s, r)
	}
	return strings.TrimRight(string(s), "\x00")
}

// brand is leaves 0x80000002 to 4.
func (h Host) brand() string {
	if highest, _, _, _ := h.CPUID(0x8000_0000, 0); highest < 0x8000_0004 {
		return ""
	}
	var s []byte
	for leaf := uint32(0x8000_0002); leaf <= 0x8000_0004; leaf++ {
		a, b, c, d := h.CPUID(leaf, 0)
		for _, r := range []uint32{a, b, c, d} {
			s = binary.LittleEndian.AppendUint32(s, r)
		}
	}
	return strings.TrimSpace(strings.TrimRight(string(s), "\x00"))
}

// Machine is what the kernel runs on: metal, or a virtual machine of whom.
type Machine struct {
	Virtual    bool   `json:"virtual"`
	Hypervisor string `json:"hypervisor"` // empty on metal
	Signature  string `json:"signature"`  // of CPUID leaf 0x40000000
	Cloud      string `json:"cloud"`      // empty if none is recognized
	Maker      string `json:"maker"`      // DMI: sys_vendor
	Product    string `json:"product"`    // DMI: product_name
	BIOS       string `json:"bios"`       // DMI: bios_vendor, bios_version
	ACPI       string `json:"acpi"`       // OEM of the FADT
}

func (h Host) machine() Machine {
	const dmi = "sys/class/dmi/id/"
	m := Machine{
		Virtual: h.Has(cpuid.Hypervisor),
		Maker:   h.line(dmi + "sys_vendor"),
		Product: h.line(dmi + "product_name"),
		BIOS:    strings.TrimSpace(h.line(dmi+"bios_vendor") + " " + h.line(dmi+"bios_version")),
		ACPI:    h.acpi(),
	}
	if m.Virtual {
		m.Signature = h.signature(0x4000_0000, true)
		m.Hypervisor = hypervisor(m)
	}
	m.Cloud = cloud(m, h.line(dmi+"chassis_asset_tag"))
	return m
}

// acpi is the OEM of the fixed ADT, at byte 10 of the header of any table (ACPI
// 6.5 §5.2.6). It names the VMM where there is no DMI, as under Firecracker.
func (h Host) acpi() string {
	table, err := fs.ReadFile(h.Files, "sys/firmware/acpi/tables/FACP")
	if err != nil || len(table) < 16 {
		return ""
	}
	return strings.TrimRight(string(table[10:16]), " \x00")
}

// signatures of leaf 0x40000000.
var signatures = map[string]string{
	"KVMKVMKVM":    "KVM",
	"TCGTCGTCGTCG": "QEMU's translator (TCG)",
	"Microsoft Hv": "Hyper-V",
	"VMwareVMware": "VMware",
	"XenVMMXenVMM": "Xen",
	"VBoxVBoxVBox": "VirtualBox",
	"bhyve bhyve ": "bhyve",
	"ACRNACRNACRN": "ACRN",
	" lrpepyh  vr": "Parallels",
	"EVMMEVMMEVMM": "Intel KGT",
	"Jailhouse":    "Jailhouse",
	"QNXQVMBSQG":   "QNX",
	"SRESRESRESRE": "LMHS",
	"OpenBSDVMM58": "OpenBSD vmm",
}

// makers says which VMM drives the hypervisor, by the OEM of its ACPI tables.
var makers = map[string]string{
	"FIRECK": "Firecracker", "CLOUDH": "Cloud Hypervisor", "BOCHS": "QEMU", "Google": "Google's VMM",
	"GOOGLE": "Google's VMM", "AMAZON": "Nitro", "CROSVM": "crosvm", "BHLKHD": "Bulkhead",
}

func hypervisor(m Machine) string {
	name, known := signatures[m.Signature]
	if !known {
		name = "unknown (" + m.Signature + ")"
	}
	maker := makers[m.ACPI]
	if maker == "" && strings.HasPrefix(m.Maker, "QEMU") {
		maker = "QEMU"
	}
	if maker != "" && !strings.HasPrefix(name, maker) {
		name += ", " + maker
	}
	return name
}

// clouds are recognized by DMI alone, as their own guest agents do it.
var clouds = []struct {
	name                string
	maker, product, tag string // prefixes; empty: any
}{
	{"Google Cloud", "Google", "Google Compute Engine", ""},
	{"Amazon EC2", "Amazon EC2", "", ""},
	{"Microsoft Azure", "Microsoft Corporation", "Virtual Machine", "7783-7084-3265-9085-8269-3286-77"},
	{"Oracle Cloud", "", "", "OracleCloud.com"},
	{"Alibaba Cloud", "Alibaba Cloud", "", ""},
	{"DigitalOcean", "DigitalOcean", "", ""},
	{"Hetzner Cloud", "Hetzner", "", ""},
	{"Scaleway", "Scaleway", "", ""},
	{"Vultr", "Vultr", "", ""},
	{"Akamai (Linode)", "Linode", "", ""},
	{"Akamai (Linode)", "Akamai", "", ""},
	{"Exoscale", "Exoscale", "", ""},
	{"UpCloud", "UpCloud", "", ""},
	{"OpenStack", "OpenStack", "", ""},
}

func cloud(m Machine, tag string) string {
	for _, c := range clouds {
		if strings.HasPrefix(m.Maker, c.maker) && strings.HasPrefix(m.Product, c.product) && strings.HasPrefix(tag, c.tag) {
			return c.name
		}
	}
	return ""
}
