// Package features says what of the OCI specification is honoured, in the form that its
// features.md gives: for `bulkhead features`, and for containerd, which asks the shim.
package features

import (
	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/container"
	"bulkhead/runtime/program"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Of says it.
func Of() *features.Features {
	yes, no := true, false
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		MountOptions:  agent.MountWords(),
		Linux: &features.Linux{
			Cgroup: &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &no},
			Seccomp: &features.Seccomp{
				Enabled:   &yes,
				Actions:   []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"},
				Operators: []string{"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"},
				Archs:     []string{"SCMP_ARCH_X86_64"},
			},
			Apparmor:        &features.Apparmor{Enabled: &no},
			Selinux:         &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &no},
		},
		PotentiallyUnsafeConfigAnnotations: []string{container.AnnotationPrefix},
		Annotations:                        map[string]string{"dev.bulkhead.version": program.Version, "dev.bulkhead.commit": program.Commit},
	}
	for _, k := range bundle.HookKinds(nil) {
		f.Hooks = append(f.Hooks, k.Name)
	}
	for _, ns := range bundle.Namespaces {
		f.Linux.Namespaces = append(f.Linux.Namespaces, string(ns))
	}
	return f
}
