package agent

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// execFiltered becomes a program under a seccomp filter, with the capabilities final:
// the calling thread's, which may need one more to set the filter. It returns what
// kept it from that. Nothing is called in between but capset(2) and execve(2), which is
// all that a filter has to allow; syscall.Exec would have Go's scheduler make calls of
// its own.
//
// It is sound because all that the kernel is given stays alive and where it is up to
// the last call: strings and arrays are in the heap, which does not move, and
// prog, h and final are kept alive. The kernel copies before each call returns.
func execFiltered(filter []byte, flags uint32, final *[2]unix.CapUserData, path string, args, env []string) error {
	argv0, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envp, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	const instruction = unsafe.Sizeof(unix.SockFilter{})
	n := uintptr(len(filter)) / instruction
	if n == 0 || n > unix.BPF_MAXINSNS || uintptr(len(filter))%instruction != 0 {
		return unix.EINVAL
	}
	prog := &unix.SockFprog{Len: uint16(n), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	h := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(prog))); errno != 0 {
		return errno
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(&final[0])), 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(argv0)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envp[0])))
	}
	runtime.KeepAlive(prog)
	runtime.KeepAlive(filter)
	return errno
}
