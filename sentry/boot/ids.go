package boot

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"bulkhead/sentry/fs/gofer"
	"bulkhead/sentry/vfs"
)

// idMap is a list of mappings; nil for an empty one.
func idMap(maps []specs.LinuxIDMapping) *vfs.IDMap {
	if len(maps) == 0 {
		return nil
	}
	m := &vfs.IDMap{}
	for _, x := range maps {
		m.Ranges = append(m.Ranges, vfs.IDRange{First: x.ContainerID, Base: x.HostID, Count: x.Size})
	}
	return m
}

// userIDs are the maps of the container's user namespace, nil without one. Inside it is
// the first: the Sentry translates where its files are the host's, and nowhere else.
func (c *container) userIDs() (uids, gids *vfs.IDMap) {
	l := c.config.Spec.Linux
	if l == nil {
		return nil, nil
	}
	return idMap(l.UIDMappings), idMap(l.GIDMappings)
}

// mapIDs says to the file systems of the host's under which numbers their files' owners go.
func (c *container) mapIDs() {
	uids, gids := c.userIDs()
	for n, fs := range c.files {
		ids := gofer.IDs{UIDs: gofer.IDMaps{User: uids}, GIDs: gofer.IDMaps{User: gids}}
		if n > 0 && n <= len(c.config.GoferMounts) { // the first is the root, the last maybe the layer over it
			m := c.config.Spec.Mounts[c.config.GoferMounts[n-1]]
			ids.UIDs.Mount, ids.GIDs.Mount = idMap(m.UIDMappings), idMap(m.GIDMappings)
			if ids.UIDs.Mount == nil && (slices.Contains(m.Options, "idmap") || slices.Contains(m.Options, "ridmap")) {
				ids.UIDs.Mount, ids.GIDs.Mount = uids, gids
			}
		}
		if ids != (gofer.IDs{}) {
			fs.MapIDs(ids)
		}
	}
}
