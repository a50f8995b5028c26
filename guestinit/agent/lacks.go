package agent

import (
	"fmt"
	"path/filepath"
	"strings"
)

// needs are what a kernel shows that has what containers are run with, and what it was not
// built with if it does not (kernels/config). A kernel that came with modules may have them
// there, and nobody has loaded them.
var needs = []struct{ path, what, option string }{
	{"/sys/bus/virtio/devices/*", "devices of virtio's by MMIO", "CONFIG_VIRTIO_MMIO, CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES or ACPI"},
	{"/sys/bus/virtio/drivers/vmw_vsock_virtio_transport", "a driver for the host's calls", "CONFIG_VIRTIO_VSOCKETS"},
	{"/sys/bus/virtio/drivers/virtiofs", "a driver for the containers' files", "CONFIG_VIRTIO_FS"},
	{"/sys/fs/cgroup/cgroup.controllers", "control groups of version 2", "CONFIG_CGROUPS"},
	{"/proc/self/ns/pid", "namespaces of processes", "CONFIG_PID_NS"},
	{"/proc/self/ns/uts", "namespaces of names", "CONFIG_UTS_NS"},
	{"/proc/self/ns/ipc", "namespaces of IPC", "CONFIG_IPC_NS"},
}

// lacks is what the kernel below root, "" in a guest, has not, for people; "" if it has all.
func lacks(root string) string {
	var list []string
	for _, n := range needs {
		if found, _ := filepath.Glob(root + n.path); len(found) == 0 {
			list = append(list, fmt.Sprintf("%s (%s)", n.what, n.option))
		}
	}
	return strings.Join(list, ", ")
}

// blame adds what the kernel lacks to an error of the start.
func blame(err error) error {
	missing := lacks("")
	if missing == "" {
		return err
	}
	return fmt.Errorf("this kernel lacks %s: %w", missing, err)
}
