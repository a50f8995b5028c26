package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"bulkhead/jail/seccomp"
	"bulkhead/runtime/agent"
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
		all = append(all, describe(d))
	}
	return all
}

func describe(d agent.Disk) *rpc.Disk {
	return &rpc.Disk{Root: d.Root, Upper: d.Upper, Node: d.Node, ReadOnly: d.ReadOnly}
}

// diskSlot waits for a disk of a container that comes later.
type diskSlot struct {
	device *blk.Device
	of     *container // mu guards it; nil: it is empty
}

// makeSlots come behind the machine's disks.
func (s *sandbox) makeSlots() (all []machine.Device, err error) {
	for i := range s.config.DiskSlots {
		device, err := blk.NewSlot(blk.Options{Log: s.log})
		if err != nil {
			return nil, err
		}
		s.slots = append(s.slots, &diskSlot{device: device})
		all = append(all, machine.Device{Name: fmt.Sprintf("slot%d", i), Device: device})
	}
	return all, nil
}

// insertDisks puts a container's into slots, where the guest finds what it makes the container
// of, and gives what it is told. It takes the files over.
func (s *sandbox) insertDisks(c *container, disks []agent.Disk, files []*os.File) ([]*rpc.Disk, error) {
	if len(disks) == 0 {
		return nil, nil
	}
	all := make([]*rpc.Disk, len(s.disks)+len(s.slots))
	for i := range all {
		all[i] = &rpc.Disk{} // nothing of the container's
	}
	s.mu.Lock()
	var free []int
	for i, slot := range s.slots {
		if slot.of == nil {
			free = append(free, i)
		}
	}
	if len(free) < len(disks) {
		s.mu.Unlock()
		closeAll(files)
		return nil, fmt.Errorf("%d disks, and of the machine's %d slots for those of its further containers %d are free (annotation %s): %w",
			len(disks), len(s.slots), len(free), agent.DiskSlotsAnnotation, unix.ENOSPC)
	}
	free = free[:len(disks)]
	for _, i := range free {
		s.slots[i].of = c
	}
	s.mu.Unlock()
	for n, i := range free {
		if err := s.slots[i].device.Insert(files[n], disks[n].ReadOnly); err != nil {
			closeAll(files[n+1:])
			s.ejectDisks(c)
			return nil, err
		}
		all[len(s.disks)+i] = describe(disks[n])
	}
	return all, nil
}

// ejectDisks comes when the guest has let go of them, or should have.
func (s *sandbox) ejectDisks(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slot := range s.slots {
		if slot.of == c {
			slot.device.Eject()
			slot.of = nil
		}
	}
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

// slotCalls are those of putting a disk into a slot.
var slotCalls = []seccomp.Row{
	{NR: unix.SYS_LSEEK, Name: "lseek", Why: "disk: a file's size"},
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "disk: a block device's size", When: seccomp.Is(1, unix.BLKGETSIZE64)},
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "disk: a block device's sectors", When: seccomp.Is(1, unix.BLKSSZGET)},
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "disk: a block device's sectors", When: seccomp.Is(1, unix.BLKPBSZGET)},
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "disk: a block device's sectors", When: seccomp.Is(1, unix.BLKIOOPT)},
}
