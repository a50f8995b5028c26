package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"bulkhead/jail/seccomp"
	"bulkhead/runtime/agent/rpc"
	"bulkhead/virtio/blk"
	"bulkhead/vmm/machine"
)

// openDisks makes the machine's block devices of what the runtime has opened. A guest that
// boots to be a template sees none: they have no sectors until presentDisks, so that nothing of
// them stays in its memory. Others find what theirs are when they begin.
func (s *sandbox) openDisks() (all []machine.Device, err error) {
	for i, d := range s.config.Files.Disks {
		device, err := blk.New(os.NewFile(uintptr(d.FD), d.Name), blk.Options{ReadOnly: d.ReadOnly, Absent: true, Log: s.log})
		if err != nil {
			return nil, err
		}
		s.disks = append(s.disks, device)
		all = append(all, machine.Device{Name: fmt.Sprintf("disk%d", i), Device: device})
	}
	return all, nil
}

// presentDisks comes before a guest's drivers take them.
func (s *sandbox) presentDisks() {
	for _, d := range s.disks {
		d.Present()
	}
}

// describeDisks is what the first container has of them.
func (s *sandbox) describeDisks() (all []*rpc.Disk) {
	for _, d := range s.config.Files.Disks {
		all = append(all, &rpc.Disk{Root: d.Root, Upper: d.Upper, Node: d.Node, ReadOnly: d.ReadOnly})
	}
	return all
}

// diskCalls are those of disks.
var diskCalls = []seccomp.Row{
	{NR: unix.SYS_PREADV2, Name: "preadv2", Why: "disk"},
	{NR: unix.SYS_PWRITEV2, Name: "pwritev2", Why: "disk"},
	{NR: unix.SYS_FDATASYNC, Name: "fdatasync", Why: "disk: flush"},
	{NR: unix.SYS_FALLOCATE, Name: "fallocate", Why: "disk: discard, write zeroes"},
	{NR: unix.SYS_PWRITE64, Name: "pwrite64", Why: "disk: write zeroes"},
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "disk: discard", When: seccomp.Is(1, unix.BLKDISCARD)},
}
