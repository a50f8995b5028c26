package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	guest "bulkhead/guestinit/config"
)

// Where guestinit mounts a bundle's root, and the tags of its shares.
const (
	bundleRoot = "/mnt/rootfs"
	rootTag    = "rootfs"
)

// bundleLimit keeps a device or an endless file from being read as config.json.
const bundleLimit = 4 << 20 // bytes

// ReadBundle makes what --bundle names a part of the machine: shares, and what
// guestinit is told. A command that was given stays. What it returns is what of
// the bundle is not honoured, by name.
func (m *Machine) ReadBundle() (ignored []string, err error) {
	if m.Bundle == "" {
		return nil, nil
	}
	spec, err := readSpec(filepath.Join(m.Bundle, "config.json"))
	if err == nil {
		ignored, err = m.container(spec)
	}
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", m.Bundle, err)
	}
	return ignored, nil
}

func readSpec(name string) (*specs.Spec, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, bundleLimit+1))
	if err != nil {
		return nil, err
	}
	if len(b) > bundleLimit {
		return nil, fmt.Errorf("config.json: longer than %d MiB", bundleLimit>>20)
	}
	s := new(specs.Spec)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	switch {
	case s.Process == nil || len(s.Process.Args) == 0:
		return nil, errors.New("config.json: no process.args")
	case s.Root == nil || s.Root.Path == "":
		return nil, errors.New("config.json: no root.path")
	case !path.IsAbs(s.Process.Cwd):
		return nil, fmt.Errorf("config.json: process.cwd %q is not absolute", s.Process.Cwd)
	}
	return s, nil
}

func (m *Machine) container(s *specs.Spec) (ignored []string, err error) {
	if len(m.Command) == 0 {
		m.Command = s.Process.Args
	}
	m.Container = guest.Config{
		Hostname: s.Hostname, Root: bundleRoot,
		Env: s.Process.Env, Cwd: s.Process.Cwd, UID: s.Process.User.UID, GID: s.Process.User.GID, Groups: s.Process.User.AdditionalGids,
	}
	m.Shares = append([]Share{{Tag: rootTag, Dir: m.beside(s.Root.Path), ReadOnly: s.Root.Readonly, At: bundleRoot}}, m.Shares...)
	for i, mount := range s.Mounts {
		if err := m.mount(i, mount); err != nil {
			return nil, fmt.Errorf("config.json: mount on %s: %w", mount.Destination, err)
		}
	}
	return unhonoured(s), m.Container.Check()
}

// beside is a path of the bundle's.
func (m *Machine) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(m.Bundle, name)
}

// mount adds one of the bundle's mounts. A guest has file systems of its own for those
// that show a kernel, and directories of the host are shares.
func (m *Machine) mount(i int, from specs.Mount) error {
	if !path.IsAbs(from.Destination) {
		return errors.New("not an absolute path")
	}
	at := path.Join(bundleRoot, path.Clean(from.Destination)) // an absolute path has no way out by ".."
	if at == bundleRoot {
		return errors.New("the root is root.path")
	}
	readOnly := false
	bind := from.Type == "bind"
	for _, o := range from.Options {
		readOnly = readOnly || o == "ro"
		bind = bind || o == "bind" || o == "rbind"
	}
	if bind {
		dir := m.beside(from.Source)
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return fmt.Errorf("%s is not a directory, and only these can be shared with a guest", dir)
		}
		m.Shares = append(m.Shares, Share{Tag: fmt.Sprintf("mount%d", i), Dir: dir, ReadOnly: readOnly, At: at})
		return nil
	}
	switch from.Type {
	case "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2":
		return nil // guestinit's, for the whole guest
	case "tmpfs":
		switch from.Destination {
		case "/dev", "/dev/shm", "/run", "/tmp":
			return nil // likewise
		}
		m.Container.Mounts = append(m.Container.Mounts, guest.Mount{Source: from.Source, Target: at, Type: "tmpfs", Options: known(from.Options)})
		return nil
	}
	return fmt.Errorf("a guest has no file system %q", from.Type)
}

// known leaves out what is about the propagation of mounts between namespaces.
func known(options []string) []string {
	var all []string
	for _, o := range options {
		switch o {
		case "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable", "strictatime", "relatime", "tmpcopyup":
			continue
		}
		all = append(all, o)
	}
	return all
}

// unhonoured are the parts of a bundle that guestinit makes nothing of. A guest's kernel is
// the wall; within it the process is as free as its user.
func unhonoured(s *specs.Spec) []string {
	var all []string
	row := func(there bool, name string) {
		if there {
			all = append(all, name)
		}
	}
	row(s.Process.Capabilities != nil, "process.capabilities")
	row(len(s.Process.Rlimits) > 0, "process.rlimits")
	row(s.Process.NoNewPrivileges, "process.noNewPrivileges")
	row(s.Hooks != nil, "hooks")
	if l := s.Linux; l != nil {
		row(l.Resources != nil, "linux.resources")
		row(l.Seccomp != nil, "linux.seccomp")
		row(len(l.Sysctl) > 0, "linux.sysctl")
		row(len(l.Devices) > 0, "linux.devices")
		row(len(l.MaskedPaths)+len(l.ReadonlyPaths) > 0, "linux.maskedPaths")
	}
	return all
}
