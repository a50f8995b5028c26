package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/bpf"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func seccompCalls() []row {
	return []row{{unix.SYS_SECCOMP, seccomp, Full, ""}}
}

// Operations and flags (include/uapi/linux/seccomp.h).
const (
	seccompSetStrict = 0
	seccompSetFilter = 1
	seccompAvail     = 2
	seccompSizes     = 3

	filterTSync       = 1
	filterLog         = 2
	filterSpecAllow   = 4
	filterNewListener = 8
	filterTSyncESRCH  = 16
	filterKillable    = 32
	filterFlags       = 63
)

func seccomp(t *kernel.Task, a *Args) (uintptr, error) {
	op, flags, at := a.Uint32(0), a.Uint32(1), a.Addr(2)
	switch op {
	case seccompSetStrict:
		if flags != 0 || at != 0 {
			return 0, unix.EINVAL
		}
		return 0, t.StrictMode()
	case seccompSetFilter:
		return setFilter(t, flags, at)
	case seccompAvail:
		if flags != 0 {
			return 0, unix.EINVAL
		}
		action, err := in32(t, at)
		if err != nil {
			return 0, err
		}
		switch action {
		case kernel.RetKillProcess, kernel.RetKillThread, kernel.RetTrap, kernel.RetErrno, kernel.RetUserNotif,
			kernel.RetTrace, kernel.RetLog, kernel.RetAllow:
			return 0, nil
		}
		return 0, unix.EOPNOTSUPP
	case seccompSizes:
		if flags != 0 {
			return 0, unix.EINVAL
		}
		return 0, outStruct(t, at, &[3]uint16{noticeSize, replySize, bpf.DataSize})
	}
	return 0, unix.EINVAL
}

// setFilter is seccomp_set_mode_filter.
func setFilter(t *kernel.Task, flags uint32, at memory.Addr) (uintptr, error) {
	listens := flags&filterNewListener != 0
	switch {
	case flags&^filterFlags != 0,
		listens && flags&filterTSync != 0 && flags&filterTSyncESRCH == 0,
		!listens && flags&filterKillable != 0:
		return 0, unix.EINVAL
	}
	prog, err := inFilter(t, at)
	if err != nil {
		return 0, err
	}
	n := kernel.NewFilter{Program: prog, Sync: flags&filterTSync != 0}
	fd := uintptr(0)
	if listens {
		n.Listener = kernel.NewListener(flags&filterKillable != 0)
		d := vfs.NewAnonymous(&listener{n.Listener}, "anon_inode:seccomp notify", unix.O_RDWR)
		defer d.Unref()
		if fd, err = install(t, d, 0, true); err != nil {
			return 0, err
		}
	}
	clash, err := t.AddFilter(n)
	if clash != 0 && flags&filterTSyncESRCH != 0 {
		err = unix.ESRCH
	}
	if listens && (err != nil || clash != 0) {
		t.FDs().Close(int(fd))
	}
	if clash != 0 {
		return uintptr(clash), err
	}
	return fd, err
}

// inFilter reads struct sock_fprog and what it points to.
func inFilter(t *kernel.Task, at memory.Addr) (*bpf.Program, error) {
	var f [16]byte
	if err := in(t, at, f[:]); err != nil {
		return nil, err
	}
	n := le.Uint16(f[:])
	switch {
	case n == 0 || n > bpf.MaxInstructions:
		return nil, unix.EINVAL
	case !t.Creds().NoNewPrivs && !t.Creds().HasIn(t.Creds().User, unix.CAP_SYS_ADMIN):
		return nil, unix.EACCES
	}
	b := make([]byte, int(n)*bpf.InstructionSize)
	if err := in(t, memory.Addr(le.Uint64(f[8:])), b); err != nil {
		return nil, err
	}
	return bpf.Parse(b)
}

// listener is a kernel.Listener with its ioctls.
type listener struct{ *kernel.Listener }

const (
	noticeSize = 80 // struct seccomp_notif
	replySize  = 24 // struct seccomp_notif_resp
	addFDSize  = 24 // struct seccomp_notif_addfd

	notifRecv     = 0xc0502100
	notifSend     = 0xc0182101
	notifValid    = 0x40082102
	notifValidOld = 0x80082102 // SECCOMP_IOCTL_NOTIF_ID_VALID_WRONG_DIR
	notifAddFD    = 0x40182103
	notifSetFlags = 0x40082104
)

// Ioctl implements vfs.File.
func (l *listener) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return 0, unix.ENOTTY
	}
	at := memory.Addr(arg)
	switch cmd {
	case notifRecv:
		return 0, l.receive(t, at)
	case notifSend:
		var b [replySize]byte
		if err := in(t, at, b[:]); err != nil {
			return 0, err
		}
		flags := le.Uint32(b[20:])
		r := kernel.NotifyReply{Value: int64(le.Uint64(b[8:])), Error: int32(le.Uint32(b[16:])), Continue: flags&1 != 0}
		if flags&^1 != 0 || r.Continue && (r.Value != 0 || r.Error != 0) {
			return 0, unix.EINVAL
		}
		return 0, l.Send(le.Uint64(b[:]), r)
	case notifValid, notifValidOld:
		id, err := in64(t, at)
		if err != nil {
			return 0, err
		}
		return 0, l.Valid(id)
	case notifAddFD:
		return l.addFD(t, at)
	case notifSetFlags:
		if arg&^1 != 0 { // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, a hint
			return 0, unix.EINVAL
		}
		return 0, nil
	}
	return 0, unix.EINVAL
}

func (l *listener) receive(t *kernel.Task, at memory.Addr) error {
	var b [noticeSize]byte
	if err := in(t, at, b[:]); err != nil {
		return err
	}
	if b != [noticeSize]byte{} {
		return unix.EINVAL
	}
	n, err := l.Receive(t)
	if err != nil {
		return err
	}
	le.PutUint64(b[0:], n.ID)
	le.PutUint32(b[8:], uint32(n.TID))
	copy(b[16:], n.Data.Bytes())
	if err := out(t, at, b[:]); err != nil {
		l.Unreceive(n.ID)
		return err
	}
	return nil
}

func (l *listener) addFD(t *kernel.Task, at memory.Addr) (uintptr, error) {
	const setFD, send = 1, 2
	var b [addFDSize]byte
	if err := in(t, at, b[:]); err != nil {
		return 0, err
	}
	flags, src, fd, fdFlags := le.Uint32(b[8:]), le.Uint32(b[12:]), int(le.Uint32(b[16:])), le.Uint32(b[20:])
	if fdFlags&^unix.O_CLOEXEC != 0 || flags&^(setFD|send) != 0 || fd != 0 && flags&setFD == 0 {
		return 0, unix.EINVAL
	}
	d, err := t.FDs().Get(int(int32(src)))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if flags&setFD == 0 {
		fd = -1
	}
	got, err := l.AddFD(le.Uint64(b[0:]), d, fd, fdFlags != 0, flags&send != 0)
	return uintptr(got), err
}
