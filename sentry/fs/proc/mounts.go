package proc

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/vfs"
)

// mountFlags are the words of a mount's flags, in fs/proc_namespace.c's order.
var mountFlags = []struct {
	flag vfs.MountFlags
	name string
}{
	{unix.MS_NOSUID, ",nosuid"}, {unix.MS_NODEV, ",nodev"}, {unix.MS_NOEXEC, ",noexec"},
	{unix.MS_NOATIME, ",noatime"}, {unix.MS_NODIRATIME, ",nodiratime"}, {unix.MS_RELATIME, ",relatime"},
	{unix.MS_NOSYMFOLLOW, ",nosymfollow"},
}

func flagWords(f vfs.MountFlags) string {
	var b strings.Builder
	for _, m := range mountFlags {
		if f&m.flag != 0 {
			b.WriteString(m.name)
		}
	}
	return b.String()
}

func readOnly(f vfs.MountFlags) string {
	if f&unix.MS_RDONLY != 0 {
		return "ro"
	}
	return "rw"
}

const mountEscapes = " \t\n\\#"

func comma(data string) string {
	if data == "" {
		return ""
	}
	return "," + data
}

func (s subject) mounts() []vfs.MountInfo {
	f := s.fs()
	if f == nil || f.Namespace() == nil {
		return nil
	}
	return f.Namespace().Mounts(f.Root())
}

func source(m *vfs.MountInfo) string {
	if m.Source == "" {
		return "none"
	}
	return escape(m.Source, mountEscapes)
}

func mounts(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	var b bytes.Buffer
	for _, m := range s.mounts() {
		fmt.Fprintf(&b, "%s %s %s %s%s%s 0 0\n", source(&m), escape(m.Point, mountEscapes), m.Type,
			readOnly(m.Flags|m.SuperFlags), flagWords(m.Flags), comma(m.Data))
	}
	return b.Bytes(), nil
}

// openMounts has a poll tell of changes.
func openMounts(f *kernfs.File, s subject, _ string) {
	f.Watch = func() (*vfs.Queue, func() uint64) {
		fs := s.fs()
		if fs == nil {
			return nil, nil
		}
		ns := fs.Namespace()
		return ns.Queue(), ns.Events
	}
}

// propagation are the optional fields (fs/proc_namespace.c, show_mountinfo).
func propagation(m *vfs.MountInfo) string {
	var b strings.Builder
	if m.Peers != 0 {
		fmt.Fprintf(&b, "shared:%d ", m.Peers)
	}
	if m.Master != 0 {
		fmt.Fprintf(&b, "master:%d ", m.Master)
		if m.From != 0 {
			fmt.Fprintf(&b, "propagate_from:%d ", m.From)
		}
	}
	if m.Unbindable {
		b.WriteString("unbindable ")
	}
	return b.String()
}

func mountinfo(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	var b bytes.Buffer
	for _, m := range s.mounts() {
		fmt.Fprintf(&b, "%d %d %d:%d %s %s %s%s %s- %s %s %s%s\n", m.ID, m.Parent, unix.Major(m.Dev), unix.Minor(m.Dev),
			escape(m.Root, mountEscapes), escape(m.Point, mountEscapes), readOnly(m.Flags), flagWords(m.Flags), propagation(&m),
			m.Type, source(&m), readOnly(m.SuperFlags), comma(m.Data))
	}
	return b.Bytes(), nil
}

func mountstats(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	var b bytes.Buffer
	for _, m := range s.mounts() {
		fmt.Fprintf(&b, "device %s mounted on %s with fstype %s\n", source(&m), escape(m.Point, mountEscapes), m.Type)
	}
	return b.Bytes(), nil
}
