package probe

import (
	"slices"
	"strings"

	"bulkhead/kvm"
)

// KVM is the device, its modules, their settings and the capabilities.
type KVM struct {
	Present      bool              `json:"present"`
	Error        string            `json:"error"` // why it is not
	Modules      []string          `json:"modules"`
	MMU          string            `json:"mmu"` // how guest memory is translated
	Parameters   map[string]string `json:"parameters"`
	Capabilities []Capability      `json:"capabilities"`
}

// Capability is a row of kvm.Capabilities and what this KVM answers.
type Capability struct {
	Name  string   `json:"name"`
	Value int      `json:"value"`
	For   []string `json:"for"` // who cannot work without
	Why   string   `json:"why"`
	Since string   `json:"since"` // first kernel that has it
}

// parameters of modules that change what a guest costs or can do.
var parameters = []string{
	"kvm/nx_huge_pages", "kvm/halt_poll_ns", "kvm/tdp_mmu", "kvm/enable_pmu", "kvm/ignore_msrs", "kvm/mmio_caching",
	"kvm_intel/ept", "kvm_intel/unrestricted_guest", "kvm_intel/nested", "kvm_intel/vpid", "kvm_intel/enable_apicv", "kvm_intel/pml",
	"kvm_amd/npt", "kvm_amd/nested", "kvm_amd/avic", "kvm_amd/vgif", "kvm_amd/sev",
	"kvm_pvm/pvm_native", "kvm_pvm/pvm_emul_batch",
}

// vendorModules are what /dev/kvm can stand on.
var vendorModules = []string{"kvm_intel", "kvm_amd", "kvm_pvm"}

func (h Host) kvm() KVM {
	k := KVM{Present: h.KVM != nil, Parameters: map[string]string{}, Modules: []string{}, Capabilities: []Capability{}}
	if h.NoKVM != nil {
		k.Error = h.NoKVM.Error()
	}
	for _, name := range append([]string{"kvm"}, vendorModules...) {
		if h.exists("sys/module/" + name) {
			k.Modules = append(k.Modules, name)
		}
	}
	for _, p := range parameters {
		module, name, _ := strings.Cut(p, "/")
		if value := h.line("sys/module/" + module + "/parameters/" + name); value != "" {
			k.Parameters[p] = value
		}
	}
	k.MMU = mmu(k)
	if h.KVM != nil {
		k.Capabilities = capabilities(h.KVM)
	}
	return k
}

// mmu says how this KVM translates a guest's addresses.
func mmu(k KVM) string {
	on := func(p string) bool { return slices.Contains([]string{"Y", "1"}, k.Parameters[p]) }
	switch {
	case slices.Contains(k.Modules, "kvm_pvm"):
		return "shadow pages (PVM)"
	case slices.Contains(k.Modules, "kvm_intel") && on("kvm_intel/ept"):
		return "EPT"
	case slices.Contains(k.Modules, "kvm_amd") && on("kvm_amd/npt"):
		return "NPT"
	case slices.Contains(k.Modules, "kvm_intel"), slices.Contains(k.Modules, "kvm_amd"):
		return "shadow pages"
	}
	return "unknown"
}

func capabilities(sys *kvm.System) []Capability {
	list := []Capability{}
	for _, row := range kvm.Capabilities {
		n, err := sys.Check(row.Cap)
		if err != nil {
			n = 0 // a question that the kernel does not take
		}
		list = append(list, Capability{row.Name, n, strings.Fields(row.For.String()), row.Why, row.Since})
	}
	return list
}

// Missing lists what user cannot work without and this KVM lacks.
func (k KVM) Missing(user kvm.User) []string {
	var names []string
	for _, c := range k.Capabilities {
		if c.Value == 0 && slices.Contains(c.For, user.String()) {
			names = append(names, c.Name)
		}
	}
	return names
}
