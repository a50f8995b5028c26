package kvm

import "golang.org/x/sys/unix"

// notifier makes the kernel tell KVM that pages of the arena changed, without
// changing them: UFFDIO_WRITEPROTECT takes a protection away that none of
// them has, and on its way calls the MMU notifiers for just these pages (mm/mprotect.c,
// change_pmd_range). mprotect there and back would do as well, but it splits the
// mapping, for which the kernel invalidates all of the 2 MiB around (mm/huge_memory.c,
// split_huge_pmd_address), and needs mmap_lock for writing.
type notifier struct{ fd int }

// Requests and structures of include/uapi/linux/userfaultfd.h.
const (
	uffdUserModeOnly = 1
	uffdAPIVersion   = 0xaa
	uffdAPI          = 0xc018aa3f
	uffdRegister     = 0xc020aa00
	uffdWriteProtect = 0xc018aa06
	uffdRegisterWP   = 2
	uffdFeatureWP    = 1 << 0
)

type (
	uffdAPIArg      struct{ api, features, _ uint64 }
	uffdRegisterArg struct{ start, size, mode, _ uint64 }
	uffdProtectArg  struct{ start, size, _ uint64 } // mode 0
)

// newNotifier may fail, on a kernel without userfaultfd: then touch uses mprotect.
func newNotifier() *notifier {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		return nil
	}
	n := &notifier{int(fd)}
	if err := uffdIoctl(n.fd, uffdAPI, &uffdAPIArg{api: uffdAPIVersion, features: uffdFeatureWP}); err != nil {
		n.close()
		return nil
	}
	return n
}

// watch registers a region; what is mapped anew in it is not watched any more.
func (n *notifier) watch(b []byte) {
	if n != nil { // an error shows again in notify
		_ = uffdIoctl(n.fd, uffdRegister, &uffdRegisterArg{start: address(b), size: uint64(len(b)), mode: uffdRegisterWP})
	}
}

// notify says whether it worked.
func (n *notifier) notify(b []byte) bool {
	return n != nil && uffdIoctl(n.fd, uffdWriteProtect, &uffdProtectArg{start: address(b), size: uint64(len(b))}) == nil
}

func (n *notifier) close() {
	if n != nil {
		unix.Close(n.fd)
	}
}
