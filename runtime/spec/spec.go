// Package spec is a container's configuration (specs-go) as JSON, without what other systems
// have in it. encoding/json learns all types of a value when it first meets that, and those of
// Windows, Solaris and the like are half of the specification's: every process of a
// container's start, in the guest as well, would learn them in vain (BenchmarkFirst).
//
// Of what is not read a member that is there is remembered as there, with nothing in it,
// since the runtime refuses such a configuration by name (runtime/bundle).
package spec

import (
	"bytes"
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Spec is one whose JSON is so.
type Spec struct{ specs.Spec }

// Of is s, to be written.
func Of(s *specs.Spec) *Spec { return &Spec{*s} }

// whole are the members that are read, and those of which it is told whether they are there.
type whole struct {
	Version     string            `json:"ociVersion"`
	Process     *specs.Process    `json:"process,omitempty"`
	Root        *specs.Root       `json:"root,omitempty"`
	Hostname    string            `json:"hostname,omitempty"`
	Domainname  string            `json:"domainname,omitempty"`
	Mounts      []specs.Mount     `json:"mounts,omitempty"`
	Hooks       *specs.Hooks      `json:"hooks,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Linux       *linux            `json:"linux,omitempty"`

	Solaris *anything `json:"solaris,omitempty"`
	Windows *anything `json:"windows,omitempty"`
	VM      *anything `json:"vm,omitempty"`
	ZOS     *anything `json:"zos,omitempty"`
	FreeBSD *anything `json:"freebsd,omitempty"`
}

// linux is specs.Linux likewise.
type linux struct {
	UIDMappings       []specs.LinuxIDMapping           `json:"uidMappings,omitempty"`
	GIDMappings       []specs.LinuxIDMapping           `json:"gidMappings,omitempty"`
	Sysctl            map[string]string                `json:"sysctl,omitempty"`
	Resources         *specs.LinuxResources            `json:"resources,omitempty"`
	CgroupsPath       string                           `json:"cgroupsPath,omitempty"`
	Namespaces        []specs.LinuxNamespace           `json:"namespaces,omitempty"`
	Devices           []specs.LinuxDevice              `json:"devices,omitempty"`
	NetDevices        map[string]specs.LinuxNetDevice  `json:"netDevices,omitempty"`
	Seccomp           *specs.LinuxSeccomp              `json:"seccomp,omitempty"`
	RootfsPropagation string                           `json:"rootfsPropagation,omitempty"`
	MaskedPaths       []string                         `json:"maskedPaths,omitempty"`
	ReadonlyPaths     []string                         `json:"readonlyPaths,omitempty"`
	MountLabel        string                           `json:"mountLabel,omitempty"`
	Personality       *specs.LinuxPersonality          `json:"personality,omitempty"`
	TimeOffsets       map[string]specs.LinuxTimeOffset `json:"timeOffsets,omitempty"`
	MemoryPolicy      *specs.LinuxMemoryPolicy         `json:"memoryPolicy,omitempty"`

	IntelRdt *anything `json:"intelRdt,omitempty"`
}

// anything is a member that is there. A null is not: a pointer stays nil.
type anything struct{}

func (*anything) UnmarshalJSON([]byte) error { return nil }

// Parse reads a configuration. Unknown members are passed over. Its errors are encoding/json's,
// with fields by their paths.
func Parse(text []byte) (*specs.Spec, error) {
	var w whole
	if err := json.Unmarshal(text, &w); err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: w.Version, Process: w.Process, Root: w.Root, Hostname: w.Hostname, Domainname: w.Domainname,
		Mounts: w.Mounts, Hooks: w.Hooks, Annotations: w.Annotations,
	}
	if l := w.Linux; l != nil {
		s.Linux = &specs.Linux{
			UIDMappings: l.UIDMappings, GIDMappings: l.GIDMappings, Sysctl: l.Sysctl, Resources: l.Resources, CgroupsPath: l.CgroupsPath,
			Namespaces: l.Namespaces, Devices: l.Devices, NetDevices: l.NetDevices, Seccomp: l.Seccomp, RootfsPropagation: l.RootfsPropagation,
			MaskedPaths: l.MaskedPaths, ReadonlyPaths: l.ReadonlyPaths, MountLabel: l.MountLabel, Personality: l.Personality, TimeOffsets: l.TimeOffsets,
			IntelRdt: empty[specs.LinuxIntelRdt](l.IntelRdt), MemoryPolicy: l.MemoryPolicy,
		}
	}
	s.Solaris, s.Windows, s.VM = empty[specs.Solaris](w.Solaris), empty[specs.Windows](w.Windows), empty[specs.VM](w.VM)
	s.ZOS, s.FreeBSD = empty[specs.ZOS](w.ZOS), empty[specs.FreeBSD](w.FreeBSD)
	return s, nil
}

func empty[T any](there *anything) *T {
	if there == nil {
		return nil
	}
	return new(T)
}

// Format writes what Parse reads.
func Format(s *specs.Spec) ([]byte, error) {
	w := whole{
		Version: s.Version, Process: s.Process, Root: s.Root, Hostname: s.Hostname, Domainname: s.Domainname,
		Mounts: s.Mounts, Hooks: s.Hooks, Annotations: s.Annotations,
		Solaris: is(s.Solaris), Windows: is(s.Windows), VM: is(s.VM), ZOS: is(s.ZOS), FreeBSD: is(s.FreeBSD),
	}
	if l := s.Linux; l != nil {
		w.Linux = &linux{
			UIDMappings: l.UIDMappings, GIDMappings: l.GIDMappings, Sysctl: l.Sysctl, Resources: l.Resources, CgroupsPath: l.CgroupsPath,
			Namespaces: l.Namespaces, Devices: l.Devices, NetDevices: l.NetDevices, Seccomp: l.Seccomp, RootfsPropagation: l.RootfsPropagation,
			MaskedPaths: l.MaskedPaths, ReadonlyPaths: l.ReadonlyPaths, MountLabel: l.MountLabel, Personality: l.Personality, TimeOffsets: l.TimeOffsets,
			IntelRdt: is(l.IntelRdt), MemoryPolicy: l.MemoryPolicy,
		}
	}
	return json.Marshal(&w)
}

func is[T any](p *T) *anything {
	if p == nil {
		return nil
	}
	return &anything{}
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *Spec) UnmarshalJSON(text []byte) error {
	if bytes.Equal(text, []byte("null")) {
		return nil // by that interface's convention
	}
	parsed, err := Parse(text)
	if err == nil {
		s.Spec = *parsed
	}
	return err
}

// MarshalJSON implements json.Marshaler.
func (s *Spec) MarshalJSON() ([]byte, error) { return Format(&s.Spec) }
