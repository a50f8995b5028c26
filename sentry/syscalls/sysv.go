package syscalls

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/kernel/ipc"
	"bulkhead/sentry/memory"
)

func sysvCalls() []row {
	return []row{
		{unix.SYS_SHMGET, shmget, Full, "SHM_HUGETLB is ENOMEM: there are no huge pages to reserve"},
		{unix.SYS_SHMAT, shmat, Full, ""},
		{unix.SYS_SHMDT, shmdt, Full, ""},
		{unix.SYS_SHMCTL, shmctl, Full, ""},
		{unix.SYS_SEMGET, semget, Full, "at most 4 million semaphores, whatever kernel.sem says"},
		{unix.SYS_SEMOP, semop, Full, ""},
		{unix.SYS_SEMTIMEDOP, semtimedop, Full, ""},
		{unix.SYS_SEMCTL, semctl, Full, ""},
		{unix.SYS_MSGGET, msgget, Full, ""},
		{unix.SYS_MSGSND, msgsnd, Full, "all queues together hold 64 MiB"},
		{unix.SYS_MSGRCV, msgrcv, Full, ""},
		{unix.SYS_MSGCTL, msgctl, Full, ""},
	}
}

// Commands of the three ctl calls (include/uapi/linux/{ipc,shm,sem,msg}.h).
const (
	ipcRmid, ipcSet, ipcStat, ipcInfo                       = 0, 1, 2, 3
	shmLock, shmUnlock, shmStat, shmInfo, shmStatAny        = 11, 12, 13, 14, 15
	semGetPid, semGetVal, semGetAll, semGetNCnt, semGetZCnt = 11, 12, 13, 14, 15
	semSetVal, semSetAll, semStat, semInfo, semStatAny      = 16, 17, 18, 19, 20
	msgStat, msgInfo, msgStatAny                            = 11, 12, 13
)

// putPerm is struct ipc64_perm, 48 bytes.
func putPerm(b []byte, p *ipc.Perm) {
	for i, v := range []uint32{uint32(p.Key), p.UID, p.GID, p.CUID, p.CGID, p.Mode} {
		le.PutUint32(b[4*i:], v)
	}
	le.PutUint16(b[24:], p.Seq())
}

// inOwner takes from a struct ipc64_perm what IPC_SET changes.
func inOwner(b []byte) ipc.Owner {
	return ipc.Owner{UID: le.Uint32(b[4:]), GID: le.Uint32(b[8:]), Mode: le.Uint32(b[20:])}
}

func shmget(t *kernel.Task, a *Args) (uintptr, error) {
	const hugeTLB = 0o4000
	flags := a.Int(2)
	if flags&hugeTLB != 0 {
		return 0, unix.ENOMEM
	}
	id, err := t.IPC().ShmGet(t, int32(a.Int(0)), a.Size(1), flags)
	return uintptr(id), err
}

func shmat(t *kernel.Task, a *Args) (uintptr, error) {
	const readOnly, round, remap, exec = 0o10000, 0o20000, 0o40000, 0o100000
	id, at, flags := a.Int(0), a.Addr(1), a.Int(2)
	if id < 0 {
		return 0, unix.EINVAL
	}
	r := memory.MapRequest{At: at, Shared: true, Prot: access(unix.PROT_READ | unix.PROT_WRITE)}
	switch {
	case at != 0:
		if at%pageSize != 0 {
			if flags&round == 0 {
				return 0, unix.EINVAL
			}
			r.At &^= pageSize - 1
			if r.At == 0 && flags&remap != 0 {
				return 0, unix.EINVAL
			}
		}
		r.Fixed, r.NoReplace = true, flags&remap == 0
	case flags&remap != 0:
		return 0, unix.EINVAL
	}
	want := uint32(0o666)
	if flags&readOnly != 0 {
		want, r.Prot = 0o444, access(unix.PROT_READ)
		r.MaxProt = access(unix.PROT_READ | unix.PROT_EXEC)
	}
	if flags&exec != 0 {
		want |= 0o111
		r.Prot |= access(unix.PROT_EXEC)
	}
	s, err := t.IPC().ShmAttach(t, id, want)
	if err != nil {
		return 0, err
	}
	defer s.Unref()
	r.Object, r.Length = s, s.Size()
	r.Name, r.Ino = s.Name(), uint64(id)
	where, err := t.MM().Map(r)
	if err == unix.EEXIST {
		err = unix.EINVAL // ipc/shm.c, do_shmat
	}
	return uintptr(where), err
}

func shmdt(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Addr(0)%pageSize != 0 {
		return 0, unix.EINVAL
	}
	return 0, t.MM().UnmapObject(a.Addr(0), func(m memory.Mappable) (uint64, bool) {
		s, ok := m.(*ipc.Segment)
		if !ok {
			return 0, false
		}
		return s.Size(), true
	})
}

func shmctl(t *kernel.Task, a *Args) (uintptr, error) {
	id, cmd, at := a.Int(0), a.Int(1), a.Addr(2)
	if cmd < 0 || id < 0 {
		return 0, unix.EINVAL
	}
	ns := t.IPC()
	switch cmd {
	case ipcInfo:
		l := ns.Limits()
		b := make([]byte, 72)
		for i, v := range []uint64{l.ShmMax, 1, uint64(l.ShmMNI), uint64(l.ShmMNI), l.ShmAll} {
			le.PutUint64(b[8*i:], v)
		}
		return uintptr(ns.ShmInfo().Highest), out(t, at, b)
	case shmInfo:
		i := ns.ShmInfo()
		b := make([]byte, 48)
		le.PutUint32(b, uint32(i.Used))
		le.PutUint64(b[8:], i.Pages)
		le.PutUint64(b[16:], i.Resident)
		return uintptr(i.Highest), out(t, at, b)
	case ipcStat, shmStat, shmStatAny:
		s, err := ns.ShmStat(t, id, cmd != ipcStat, cmd == shmStatAny)
		if err != nil {
			return 0, err
		}
		b := make([]byte, 112)
		putPerm(b, &s.Perm)
		for i, v := range []uint64{s.Size, uint64(s.Atime), uint64(s.Dtime), uint64(s.Ctime)} {
			le.PutUint64(b[48+8*i:], v)
		}
		le.PutUint32(b[80:], uint32(s.CPID))
		le.PutUint32(b[84:], uint32(s.LPID))
		le.PutUint64(b[88:], uint64(s.Attached))
		return statAnswer(cmd != ipcStat, &s.Perm), out(t, at, b)
	case ipcSet:
		b := make([]byte, 112)
		if err := in(t, at, b); err != nil {
			return 0, err
		}
		return 0, ns.ShmSet(t, id, inOwner(b))
	case ipcRmid:
		return 0, ns.ShmRemove(t, id)
	case shmLock, shmUnlock:
		return 0, ns.ShmLock(t, id, cmd == shmLock)
	}
	return 0, unix.EINVAL
}

// statAnswer is what a _STAT command returns: the id where a place was asked for.
func statAnswer(byPlace bool, p *ipc.Perm) uintptr {
	if byPlace {
		return uintptr(p.ID)
	}
	return 0
}

func semget(t *kernel.Task, a *Args) (uintptr, error) {
	id, err := t.IPC().SemGet(t, int32(a.Int(0)), a.Int(1), a.Int(2))
	return uintptr(id), err
}

func semop(t *kernel.Task, a *Args) (uintptr, error) { return doSemop(t, a, 0) }

func semtimedop(t *kernel.Task, a *Args) (uintptr, error) {
	if a[3] == 0 {
		return doSemop(t, a, 0)
	}
	ts, err := inTimespec(t, a.Addr(3))
	if err != nil {
		return 0, err
	}
	if !valid(ts) {
		if a.Uint32(2) < 1 || a.Int(0) < 0 {
			return 0, unix.EINVAL
		}
		if a.Uint32(2) > uint32(t.IPC().Limits().SemOPM) {
			return 0, unix.E2BIG
		}
		return 0, unix.EINVAL
	}
	return doSemop(t, a, after(t, ts))
}

func doSemop(t *kernel.Task, a *Args, deadline time.Duration) (uintptr, error) {
	id, n := a.Int(0), a.Uint32(2)
	switch {
	case n < 1 || id < 0:
		return 0, unix.EINVAL
	case n > uint32(t.IPC().Limits().SemOPM):
		return 0, unix.E2BIG
	}
	b := make([]byte, 6*n)
	if err := in(t, a.Addr(1), b); err != nil {
		return 0, err
	}
	ops := make([]ipc.SemOp, n)
	for i := range ops {
		o := b[6*i:]
		ops[i] = ipc.SemOp{Num: le.Uint16(o), Op: int16(le.Uint16(o[2:])), Flags: int16(le.Uint16(o[4:]))}
	}
	err := t.IPC().SemOp(t, id, ops, deadline, t.SemUndo)
	if err == kernel.ERESTARTSYS {
		err = unix.EINTR // signal(7): never restarted
	}
	return 0, err
}

// What semctl(IPC_INFO) says of limits that no kernel goes by any more
// (include/uapi/linux/sem.h).
const semUnused, semUndoSize, semMaxValue = 1024000000, 20, 32767

func semctl(t *kernel.Task, a *Args) (uintptr, error) {
	id, num, cmd, at := a.Int(0), a.Int(1), a.Int(2), a.Addr(3)
	if id < 0 {
		return 0, unix.EINVAL
	}
	ns := t.IPC()
	switch cmd {
	case ipcInfo, semInfo:
		l := ns.Limits()
		sets, sems, highest := ns.SemInfo()
		v := [10]int32{semUnused, int32(l.SemMNI), int32(l.SemMNS), semUnused, int32(l.SemMSL), int32(l.SemOPM), 500, semUndoSize, semMaxValue, semMaxValue}
		if cmd == semInfo {
			v[7], v[9] = int32(sets), int32(sems)
		}
		return uintptr(highest), outStruct(t, at, &v)
	case ipcStat, semStat, semStatAny:
		s, err := ns.SemStat(t, id, cmd != ipcStat, cmd == semStatAny)
		if err != nil {
			return 0, err
		}
		b := make([]byte, 104)
		putPerm(b, &s.Perm)
		le.PutUint64(b[48:], uint64(s.Otime))
		le.PutUint64(b[64:], uint64(s.Ctime))
		le.PutUint64(b[80:], uint64(s.N))
		return statAnswer(cmd != ipcStat, &s.Perm), out(t, at, b)
	case ipcSet:
		b := make([]byte, 104)
		if err := in(t, at, b); err != nil {
			return 0, err
		}
		return 0, ns.SemSet(t, id, inOwner(b))
	case ipcRmid:
		return 0, ns.SemRemove(t, id)
	case semGetAll:
		v, err := ns.SemValues(t, id)
		if err != nil {
			return 0, err
		}
		b := make([]byte, 0, 2*len(v))
		for _, x := range v {
			b = le.AppendUint16(b, x)
		}
		return 0, out(t, at, b)
	case semSetAll:
		n, err := ns.SemCount(t, id, true)
		if err != nil {
			return 0, err
		}
		b := make([]byte, 2*n)
		if err := in(t, at, b); err != nil {
			return 0, err
		}
		v := make([]uint16, n)
		for i := range v {
			v[i] = le.Uint16(b[2*i:])
		}
		return 0, ns.SemSetValues(t, id, v)
	case semSetVal:
		return 0, ns.SemSetValue(t, id, num, a.Int(3))
	case semGetVal, semGetPid, semGetNCnt, semGetZCnt:
		s, err := ns.SemAbout(t, id, num)
		return uintptr(map[int]int{semGetVal: s.Value, semGetPid: s.PID, semGetNCnt: s.Rising, semGetZCnt: s.Zero}[cmd]), err
	}
	return 0, unix.EINVAL
}

func msgget(t *kernel.Task, a *Args) (uintptr, error) {
	id, err := t.IPC().MsgGet(t, int32(a.Int(0)), a.Int(1))
	return uintptr(id), err
}

func msgsnd(t *kernel.Task, a *Args) (uintptr, error) {
	id, at, size := a.Int(0), a.Addr(1), a.Size(2)
	typ, err := in64(t, at)
	if err != nil {
		return 0, err
	}
	if size > uint64(t.IPC().Limits().MsgMax) || id < 0 || int64(typ) < 1 {
		return 0, unix.EINVAL
	}
	text := make([]byte, size)
	if err := in(t, at+8, text); err != nil {
		return 0, err
	}
	return 0, uninterrupted(t.IPC().MsgSend(t, id, ipc.Message{Type: int64(typ), Text: text}, a.Int(3)))
}

// uninterrupted: a handler that runs ends the call with EINTR, whatever its
// SA_RESTART.
func uninterrupted(err error) error {
	if err == kernel.ERESTARTSYS {
		return kernel.ERESTARTNOHAND
	}
	return err
}

func msgrcv(t *kernel.Task, a *Args) (uintptr, error) {
	id, at, size, typ, flags := a.Int(0), a.Addr(1), a.Size(2), a.Int64(3), a.Int(4)
	if id < 0 || int64(size) < 0 {
		return 0, unix.EINVAL
	}
	if flags&ipc.MsgCopy != 0 && (flags&ipc.MsgExcept != 0 || flags&ipc.NoWait == 0) {
		return 0, unix.EINVAL
	}
	m, err := t.IPC().MsgReceive(t, id, size, typ, flags)
	if err != nil {
		return 0, uninterrupted(err)
	}
	n := min(size, uint64(len(m.Text)))
	if err := out64(t, at, uint64(m.Type)); err != nil {
		return 0, err
	}
	return uintptr(n), out(t, at+8, m.Text[:n])
}

func msgctl(t *kernel.Task, a *Args) (uintptr, error) {
	id, cmd, at := a.Int(0), a.Int(1), a.Addr(2)
	if id < 0 || cmd < 0 {
		return 0, unix.EINVAL
	}
	ns := t.IPC()
	switch cmd {
	case ipcInfo, msgInfo:
		l, i := ns.Limits(), ns.MsgInfo()
		const pool, segmentSize, segments = 512000, 16, 0xffff // include/uapi/linux/msg.h
		v := [7]int32{pool, 16384, int32(l.MsgMax), int32(l.MsgMNB), int32(l.MsgMNI), segmentSize, 16384}
		if cmd == msgInfo {
			v[0], v[1], v[6] = int32(i.Queues), int32(i.Messages), int32(i.Bytes)
		}
		b := make([]byte, 32)
		for i, x := range v {
			le.PutUint32(b[4*i:], uint32(x))
		}
		le.PutUint16(b[28:], segments)
		return uintptr(i.Highest), out(t, at, b)
	case ipcStat, msgStat, msgStatAny:
		q, err := ns.MsgStat(t, id, cmd != ipcStat, cmd == msgStatAny)
		if err != nil {
			return 0, err
		}
		b := make([]byte, 120)
		putPerm(b, &q.Perm)
		for i, v := range []uint64{uint64(q.Stime), uint64(q.Rtime), uint64(q.Ctime), q.Bytes, uint64(q.N), q.Most} {
			le.PutUint64(b[48+8*i:], v)
		}
		le.PutUint32(b[96:], uint32(q.LSPID))
		le.PutUint32(b[100:], uint32(q.LRPID))
		return statAnswer(cmd != ipcStat, &q.Perm), out(t, at, b)
	case ipcSet:
		b := make([]byte, 120)
		if err := in(t, at, b); err != nil {
			return 0, err
		}
		return 0, ns.MsgSet(t, id, inOwner(b), le.Uint64(b[88:]))
	case ipcRmid:
		return 0, ns.MsgRemove(t, id)
	}
	return 0, unix.EINVAL
}
