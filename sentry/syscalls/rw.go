package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/devpts"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

func rwCalls() []row {
	return []row{
		{unix.SYS_READ, read, Full, ""},
		{unix.SYS_WRITE, write, Full, ""},
		{unix.SYS_PREAD64, pread, Full, ""},
		{unix.SYS_PWRITE64, pwrite, Full, ""},
		{unix.SYS_READV, readv, Full, ""},
		{unix.SYS_WRITEV, writev, Full, ""},
		{unix.SYS_PREADV, preadv, Full, ""},
		{unix.SYS_PWRITEV, pwritev, Full, ""},
		{unix.SYS_PREADV2, preadv2, Full, ""},
		{unix.SYS_PWRITEV2, pwritev2, Full, ""},
		{unix.SYS_LSEEK, lseek, Full, ""},
	}
}

// maxRW is the most that one call moves (MAX_RW_COUNT).
const maxRW = 0x7ffff000

// transfer is one read or write call, taken apart.
type transfer struct {
	d        *vfs.Description
	pos      int64 // -1: the description's own
	write    bool
	nonblock bool
}

// do moves bytes between the file and [at, at+n), waiting where the file does.
func (x *transfer) do(t *kernel.Task, at memory.Addr, n uint64) (uintptr, error) {
	n = min(n, maxRW)
	if n == 0 {
		done, err := x.some(t, nil)
		return uintptr(done), err
	}
	if at >= taskSize || uint64(taskSize-at) < n {
		return 0, unix.EFAULT
	}
	access := platform.Write
	if x.write {
		access = platform.Read
	}
	// Most transfers fit one pin; a longer one goes piece by piece, so that it
	// holds no more of the application's memory than it can use at a time.
	done := uint64(0)
	for {
		piece, release, err := t.MM().Pin(at+memory.Addr(done), min(n-done, maxPin), access)
		if err == nil && x.write && uint64(piece.Len()) < min(n-done, maxPin) && !x.regular() {
			release()
			err = unix.EFAULT // a message is sent whole
		}
		if err != nil {
			return partial(done, err)
		}
		m, err := x.some(t, piece)
		short := m < piece.Len()
		release()
		done += uint64(m)
		if err != nil || short || done == n {
			return partial(done, err)
		}
		if !x.regular() && !x.write {
			return uintptr(done), nil
		}
	}
}

const maxPin = 4 << 20

func partial(done uint64, err error) (uintptr, error) {
	if done > 0 {
		return uintptr(done), nil
	}
	return 0, err
}

// regular reports whether a short answer means the end, rather than that there
// is no more at the moment.
func (x *transfer) regular() bool {
	_, stream := x.d.File().(vfs.Stream)
	return !stream
}

// some is one try, repeated while the file says EAGAIN.
func (x *transfer) some(t *kernel.Task, b memory.Buffers) (int, error) {
	done := 0
	try := func() error {
		n, err := x.once(t, b)
		done += n
		if err == nil && x.write && n < b.Len() && n > 0 && !x.nonblock && !x.regular() {
			b = b.Skip(n) // a pipe took a part; the rest waits
			return unix.EAGAIN
		}
		return err
	}
	mask := vfs.EventIn
	if x.write {
		mask = vfs.EventOut
	}
	err := try()
	if err == unix.EAGAIN && !x.nonblock {
		late := func() error {
			n, err := x.d.File().(devpts.Timed).ReadLate(t, b)
			done += n
			return err
		}
		err = x.wait(t, mask, try, late)
	}
	if err == unix.EPIPE && x.write && !isDatagram(x.d) {
		pipeSignal(t)
	}
	if done > 0 {
		return done, nil
	}
	return done, err
}

// isDatagram is a socket whose EPIPE comes without a signal.
func isDatagram(d *vfs.Description) bool {
	s, ok := d.File().(socket.Socket)
	if !ok {
		return false
	}
	_, typ, _ := s.Kind()
	return typ != unix.SOCK_STREAM
}

// wait sleeps until try goes through, or the file's own patience ends: a
// socket's SO_RCVTIMEO, or a terminal's VTIME, which starts anew with each byte.
func (x *transfer) wait(t *kernel.Task, mask vfs.Events, try, late func() error) error {
	switch f := x.d.File().(type) {
	case socket.Socket:
		limit, send := f.Timeouts()
		if x.write {
			limit = send
		}
		return timedOut(t.Wait(x.d.Queue(), mask, false, timeout(t, limit), try), limit != 0)
	case devpts.Timed:
		if !x.write {
			return waitTimed(t, f, x.d.Queue(), mask, try, late)
		}
	}
	return t.Wait(x.d.Queue(), mask, false, 0, try)
}

func waitTimed(t *kernel.Task, f devpts.Timed, q *vfs.Queue, mask vfs.Events, try, late func() error) error {
	c := make(chan struct{}, 1)
	w := vfs.NewWaiter(mask, c)
	q.Add(w)
	defer q.Remove(w)
	for {
		if err := try(); err != unix.EAGAIN {
			return err
		}
		switch err := t.BlockUntil(c, timeout(t, f.ReadTimeout())); err {
		case nil:
		case unix.ETIMEDOUT:
			return late()
		default:
			return err
		}
	}
}

// pipeSignal sends SIGPIPE to the thread that wrote.
func pipeSignal(t *kernel.Task) {
	t.SendTask(kernel.UserInfo(unix.SIGPIPE, kernel.SI_USER, t.PID(), t.Creds().UID))
}

func (x *transfer) once(t *kernel.Task, b memory.Buffers) (int, error) {
	io := &t.Group().IO
	if x.write {
		if err := x.sizeLimit(t, &b); err != nil {
			return 0, err
		}
		io.WriteCalls.Add(1)
		n, err := x.put(t, b)
		io.WriteBytes.Add(uint64(max(n, 0)))
		return n, err
	}
	io.ReadCalls.Add(1)
	n, err := x.get(t, b)
	io.ReadBytes.Add(uint64(max(n, 0)))
	return n, err
}

func (x *transfer) get(t *kernel.Task, b memory.Buffers) (int, error) {
	if x.pos < 0 {
		return x.d.Read(t, b)
	}
	n, err := x.d.Pread(t, b, x.pos)
	x.pos += int64(max(n, 0))
	return n, err
}

func (x *transfer) put(t *kernel.Task, b memory.Buffers) (int, error) {
	if x.pos < 0 {
		return x.d.Write(t, b)
	}
	n, err := x.d.Pwrite(t, b, x.pos)
	x.pos += int64(max(n, 0))
	return n, err
}

// sizeLimit is RLIMIT_FSIZE (mm/filemap.c, generic_write_check_limits).
func (x *transfer) sizeLimit(t *kernel.Task, b *memory.Buffers) error {
	limit := t.Limit(unix.RLIMIT_FSIZE)
	if limit == ^uint64(0) || !x.regular() || b.Len() == 0 {
		return nil // what writes nothing is let be wherever it is
	}
	attr, err := x.d.Stat(t)
	if err != nil || attr.Type() != unix.S_IFREG {
		return nil
	}
	pos := x.pos
	switch {
	case x.d.Flags()&unix.O_APPEND != 0:
		pos = attr.Size
	case pos < 0:
		pos = x.d.Pos()
	}
	if uint64(pos) >= limit {
		t.SendTask(kernel.UserInfo(unix.SIGXFSZ, kernel.SI_USER, t.PID(), t.Creds().UID))
		return unix.EFBIG
	}
	*b = b.Take(int(min(uint64(b.Len()), limit-uint64(pos))))
	return nil
}

// begin finds the description and checks that it is open for the purpose.
func begin(t *kernel.Task, fd int, write bool, pos int64) (transfer, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return transfer{}, err
	}
	x := transfer{d: d, pos: pos, write: write, nonblock: d.Flags()&unix.O_NONBLOCK != 0}
	switch {
	case pos >= 0 && !x.regular():
		err = unix.ESPIPE // also where it is not open for the purpose (fs/read_write.c, do_preadv)
	case write && !d.Writable() || !write && !d.Readable():
		err = unix.EBADF
	}
	if err != nil {
		d.Unref()
		return x, err
	}
	return x, nil
}

func move(t *kernel.Task, a *Args, write, positioned bool) (uintptr, error) {
	pos := int64(-1)
	if positioned {
		if pos = a.Int64(3); pos < 0 {
			return 0, unix.EINVAL
		}
	}
	x, err := begin(t, a.Int(0), write, pos)
	if err != nil {
		return 0, err
	}
	defer x.d.Unref()
	if a.Int64(2) < 0 {
		return 0, unix.EINVAL
	}
	return x.do(t, a.Addr(1), a.Size(2))
}

func read(t *kernel.Task, a *Args) (uintptr, error)   { return move(t, a, false, false) }
func write(t *kernel.Task, a *Args) (uintptr, error)  { return move(t, a, true, false) }
func pread(t *kernel.Task, a *Args) (uintptr, error)  { return move(t, a, false, true) }
func pwrite(t *kernel.Task, a *Args) (uintptr, error) { return move(t, a, true, true) }

func readv(t *kernel.Task, a *Args) (uintptr, error)   { return moveVector(t, a, false, -1, 0) }
func writev(t *kernel.Task, a *Args) (uintptr, error)  { return moveVector(t, a, true, -1, 0) }
func preadv(t *kernel.Task, a *Args) (uintptr, error)  { return atPosition(t, a, false, 0) }
func pwritev(t *kernel.Task, a *Args) (uintptr, error) { return atPosition(t, a, true, 0) }

func preadv2(t *kernel.Task, a *Args) (uintptr, error)  { return atPosition2(t, a, false) }
func pwritev2(t *kernel.Task, a *Args) (uintptr, error) { return atPosition2(t, a, true) }

func atPosition(t *kernel.Task, a *Args, write bool, flags int) (uintptr, error) {
	if a.Int64(3) < 0 {
		return 0, unix.EINVAL
	}
	return moveVector(t, a, write, a.Int64(3), flags)
}

func atPosition2(t *kernel.Task, a *Args, write bool) (uintptr, error) {
	if a.Int64(3) == -1 {
		return moveVector(t, a, write, -1, a.Int(5))
	}
	return atPosition(t, a, write, a.Int(5))
}

func moveVector(t *kernel.Task, a *Args, write bool, pos int64, flags int) (uintptr, error) {
	const known = unix.RWF_HIPRI | unix.RWF_DSYNC | unix.RWF_SYNC | unix.RWF_NOWAIT | unix.RWF_APPEND
	if flags&^known != 0 {
		return 0, unix.EOPNOTSUPP
	}
	if !write {
		flags &^= unix.RWF_APPEND
	}
	x, err := begin(t, a.Int(0), write, pos)
	if err != nil {
		return 0, err
	}
	defer x.d.Unref()
	x.nonblock = x.nonblock || flags&unix.RWF_NOWAIT != 0
	pieces, err := inIovec(t, a.Addr(1), a.Size(2))
	if err != nil {
		return 0, err
	}
	if flags&unix.RWF_APPEND != 0 {
		x.toEnd(t)
	}
	n, err := x.vector(t, pieces)
	if flags&unix.RWF_APPEND != 0 && pos < 0 && err == nil {
		_, err = x.d.Seek(t, x.pos, unix.SEEK_SET)
	}
	if err == nil && flags&(unix.RWF_DSYNC|unix.RWF_SYNC) != 0 && write {
		err = x.d.Sync(t, flags&unix.RWF_SYNC == 0)
	}
	return n, err
}

// toEnd has x write where the file ends now.
func (x *transfer) toEnd(t *kernel.Task) {
	if attr, err := x.d.Stat(t); err == nil && x.regular() {
		x.pos = attr.Size
	}
}

// vector moves bytes between the file and several pieces of memory. A stream
// gets them as one transfer, since a packet must not fall apart.
func (x *transfer) vector(t *kernel.Task, pieces []piece) (uintptr, error) {
	access := platform.Write
	if x.write {
		access = platform.Read
	}
	b, release, err := pinPieces(t, pieces, access)
	if err != nil {
		return 0, err
	}
	defer release()
	n, err := x.some(t, b)
	return uintptr(n), err
}

// piece is one struct iovec.
type piece struct {
	at memory.Addr
	n  uint64
}

const iovMax = 1024

// inIovec reads a vector; its sum is cut at maxRW (lib/iov_iter.c, __import_iovec).
func inIovec(t *kernel.Task, at memory.Addr, n uint64) ([]piece, error) {
	if n > iovMax {
		return nil, unix.EINVAL
	}
	b := make([]byte, n*16)
	if err := in(t, at, b); err != nil {
		return nil, err
	}
	left := uint64(maxRW)
	pieces := make([]piece, 0, n)
	for ; len(b) > 0; b = b[16:] {
		p := piece{memory.Addr(le.Uint64(b)), le.Uint64(b[8:])}
		if int64(p.n) < 0 {
			return nil, unix.EINVAL
		}
		if p.at >= taskSize && p.n > 0 {
			return nil, unix.EFAULT
		}
		p.n = min(p.n, left)
		left -= p.n
		if p.n > 0 {
			pieces = append(pieces, p)
		}
	}
	return pieces, nil
}

// pinPieces makes all accessible pieces one Buffers. It fails only if the first
// byte is not accessible.
func pinPieces(t *kernel.Task, pieces []piece, access platform.Access) (memory.Buffers, func(), error) {
	var all memory.Buffers
	var releases []func()
	release := func() {
		for _, r := range releases {
			r()
		}
	}
	for i, p := range pieces {
		b, r, err := t.MM().Pin(p.at, p.n, access)
		if err != nil {
			if i == 0 {
				return nil, nil, err
			}
			break
		}
		releases = append(releases, r)
		all = append(all, b...)
		if uint64(b.Len()) < p.n {
			break
		}
	}
	return all, release, nil
}

func lseek(t *kernel.Task, a *Args) (uintptr, error) {
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	n, err := d.Seek(t, a.Int64(1), a.Int(2))
	return uintptr(n), err
}
