package gofer

import (
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"bulkhead/jail"
)

// Escapes are what a gofer that has been taken over might try. Each is run in
// the jail, in a process of its own.
var Escapes = map[string]struct {
	Try  func() error
	Want string // what it says, or the signal that it dies of
}{
	"the host's files":         {func() error { _, err := unix.Open("/etc/passwd", 0, 0); return err }, "no such file or directory"},
	"the host's root by cwd":   {func() error { _, err := unix.Open("../../../../../etc/passwd", 0, 0); return err }, "no such file or directory"},
	"another process's root":   {func() error { _, err := unix.Open("../root/etc/passwd", 0, 0); return err }, "no such file or directory"},
	"above an attachment":      {func() error { _, err := unix.Openat2(treeFD, "../../../etc", &unix.OpenHow{}); return err }, "no such file or directory"},
	"a file in the root":       {func() error { _, err := unix.Open("/new", unix.O_CREAT|unix.O_RDWR, 0o600); return err }, "read-only file system"},
	"a device":                 {func() error { _, err := unix.Openat2(treeFD, "null", &unix.OpenHow{}); return err }, "permission denied"},
	"a new device":             {func() error { return unix.Mknodat(treeFD, "disk", unix.S_IFBLK, 0x800) }, "operation not permitted"},
	"through a symlink":        {func() error { _, err := unix.Openat2(treeFD, "out", &unix.OpenHow{}); return err }, "too many levels of symbolic links"},
	"root's capabilities":      {func() error { return jail.SetCapabilities(^uint32(0)) }, "operation not permitted"},
	"a program":                {func() error { return unix.Exec("/bin/sh", nil, nil) }, "bad system call"},
	"a process":                {func() error { _, _, e := unix.RawSyscall(unix.SYS_FORK, 0, 0, 0); return e }, "bad system call"},
	"a signal":                 {func() error { return unix.Kill(1, 0) }, "bad system call"},
	"a socket":                 {func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err }, "bad system call"},
	"a mount":                  {func() error { return unix.Mount("", "/", "tmpfs", 0, "") }, "bad system call"},
	"namespaces":               {func() error { return unix.Unshare(unix.CLONE_NEWUSER) }, "bad system call"},
	"memory of others":         {func() error { return unix.PtraceAttach(1) }, "bad system call"},
	"executable memory":        {func() error { _, err := unix.Mmap(treeFD, 0, 4096, unix.PROT_EXEC, unix.MAP_PRIVATE); return err }, "bad system call"},
	"a file handle":            {func() error { _, err := unix.OpenByHandleAt(treeFD, unix.NewFileHandle(1, []byte("x")), 0); return err }, "bad system call"},
	"another working dirctory": {func() error { return unix.Chdir("/") }, "bad system call"},
}

var treeFD int

// Escape enters the jail with one attachment and tries.
func Escape(name, root string) {
	err := isolate()
	if err == nil {
		var s *server
		if s, err = newServer([]Mount{{Source: root}}, slog.Default()); err == nil {
			treeFD = s.trees[0].fd
			err = enterJail(s.needs())
		}
	}
	if err == nil {
		err = Escapes[name].Try()
	}
	if err != nil {
		os.Stdout.WriteString(err.Error())
	}
	os.Exit(0)
}
