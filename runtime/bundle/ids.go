package bundle

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hasUserNamespace says that the container's ids are not the host's.
func hasUserNamespace(s *specs.Spec) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
}

// IsIDMapped says that the owners of a mount's files are to be shown as others.
func IsIDMapped(m specs.Mount) bool {
	return len(m.UIDMappings)+len(m.GIDMappings) > 0 || slices.Contains(m.Options, "idmap") || slices.Contains(m.Options, "ridmap")
}

// checkIDs judges user namespaces (config-linux.md, "User namespace mappings") and
// id-mapped mounts (config.md, "POSIX-platform Mounts").
func checkIDs(s *specs.Spec) error {
	uids, gids := s.Linux.UIDMappings, s.Linux.GIDMappings
	for _, x := range []struct {
		name string
		maps []specs.LinuxIDMapping
	}{{"linux.uidMappings", uids}, {"linux.gidMappings", gids}} {
		switch {
		case !hasUserNamespace(s) && len(x.maps) > 0:
			return complain(x.name, "is given without a user namespace in linux.namespaces")
		case hasUserNamespace(s) && len(x.maps) == 0:
			return complain(x.name, "is missing, without which nobody has a number in the user namespace")
		}
		if err := checkIDMap(x.name, x.maps); err != nil {
			return err
		}
	}
	if hasUserNamespace(s) && s.Process != nil {
		if !mapped(uids, s.Process.User.UID) {
			return complain("process.user.uid", "%d is not in linux.uidMappings", s.Process.User.UID)
		}
		if !mapped(gids, s.Process.User.GID) {
			return complain("process.user.gid", "%d is not in linux.gidMappings", s.Process.User.GID)
		}
	}
	for i, m := range s.Mounts {
		if !IsIDMapped(m) {
			continue
		}
		field := fmt.Sprintf("mounts[%d]", i)
		switch {
		case !IsBind(&m):
			return complain(field, "idmap: only bind mounts can be id-mapped, not %s", OneLine(m.Type))
		case len(m.UIDMappings) > 0 != (len(m.GIDMappings) > 0):
			return complain(field, "uidMappings and gidMappings come together")
		case len(m.UIDMappings) == 0 && !hasUserNamespace(s):
			return complain(field, "idmap: neither the mount has uidMappings, nor the container a user namespace")
		}
		if err := checkIDMap(field+".uidMappings", m.UIDMappings); err != nil {
			return err
		}
		if err := checkIDMap(field+".gidMappings", m.GIDMappings); err != nil {
			return err
		}
	}
	return nil
}

// checkIDMap is what user_namespaces(7) demands of a map.
func checkIDMap(name string, maps []specs.LinuxIDMapping) error {
	const most = 340 // UID_GID_MAP_MAX_EXTENTS
	if len(maps) > most {
		return complain(name, "has %d ranges, and %d are the most", len(maps), most)
	}
	const none = uint64(^uint32(0))
	meet := func(a, b, n, m uint32) bool {
		return uint64(a) < uint64(b)+uint64(m) && uint64(b) < uint64(a)+uint64(n)
	}
	for i, m := range maps {
		field := fmt.Sprintf("%s[%d]", name, i)
		switch {
		case m.Size == 0:
			return complain(field+".size", "is 0")
		case uint64(m.ContainerID)+uint64(m.Size) > none, uint64(m.HostID)+uint64(m.Size) > none:
			return complain(field+".size", "%d ids from %d and %d do not end before 4294967295", m.Size, m.ContainerID, m.HostID)
		}
		for j, o := range maps[:i] {
			if meet(m.ContainerID, o.ContainerID, m.Size, o.Size) || meet(m.HostID, o.HostID, m.Size, o.Size) {
				return complain(field, "has ids that %s[%d] has, too", name, j)
			}
		}
	}
	return nil
}

func mapped(maps []specs.LinuxIDMapping, id uint32) bool {
	return slices.ContainsFunc(maps, func(m specs.LinuxIDMapping) bool { return id >= m.ContainerID && id-m.ContainerID < m.Size })
}
