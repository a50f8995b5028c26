package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// session is one client's conversation, from FUSE_INIT to FUSE_DESTROY and
// again. It checks requests and hands them to go-fuse, which calls tree.
type session struct {
	tree    *tree
	server  *fuse.ProtocolServer
	log     *slog.Logger
	buffers sync.Pool // of *[]byte, for parse

	// mu is held for reading by each request, and for writing by those after
	// which nothing is known of files and handles.
	mu   sync.RWMutex
	init []byte // the FUSE_INIT that was accepted, for snapshots; nil before it
}

// extra is what Linux's client is allowed beyond go-fuse's own list. What is not
// there, and why: locks (they would hold our workers, and are the guest's own
// affair), writeback cache (the host's changes could not be seen), POSIX ACLs
// (passed), passthrough and id-mapped mounts (they need /dev/fuse).
const extra = fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO |
	fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DIRECT_IO_ALLOW_MMAP

func newSession(t *tree, logger *slog.Logger) *session {
	s := &session{tree: t, log: logger}
	s.buffers.New = func() any { b := make([]byte, 4096); return &b }
	s.server = fuse.NewProtocolServer(t, &fuse.MountOptions{
		Name:                 "bulkhead", // of no use but to keep String from being asked
		MaxWrite:             maxIO,
		MaxBackground:        64,
		ExtraCapabilities:    extra,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
		// What the library logs is the guest's doing: malformed requests, mostly.
		Logger:       log.New(io.Discard, "", 0),
		PanicHandler: s.panicked,
	})
	return s
}

func (s *session) panicked(cause any) fuse.Status {
	s.log.Error("panic in a file system request", "device", "fs", "err", fmt.Sprint(cause), "stack", string(debug.Stack()))
	return fuse.EIO
}

// handle answers the request in in, and says how many bytes it wrote to out. An
// error is the driver's breach of the protocol.
func (s *session) handle(in, out [][]byte) (int, error) {
	buf := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buf)
	r, err := parse(in, *buf)
	var no refused
	if errors.As(err, &no) {
		return no.reply(out)
	}
	if err != nil {
		return 0, err
	}
	if r.effect == changes && s.tree.readOnly {
		return refused{r.opcode, r.unique, unix.EROFS}.reply(out)
	}
	switch r.opcode {
	case opInterrupt:
		return 0, nil // nothing here waits for anything but the host's disk
	case opInit:
		return s.begin(r, out)
	case opDestroy:
		s.reset()
		return answer(out, r.unique, 0)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.init == nil {
		return refused{r.opcode, r.unique, unix.EIO}.reply(out)
	}
	switch r.opcode {
	case opSyncfs:
		return answer(out, r.unique, errno(s.tree.sync()))
	case opRead:
		return s.read(r, out)
	}
	return s.dispatch(r, out)
}

// read serves READ without the library, which would set aside a buffer of the
// reply's size wherever that is not in one piece, as a guest's pages never are.
func (s *session) read(r request, out [][]byte) (int, error) {
	handle, at, size := binary.LittleEndian.Uint64(r.copied[40:]), binary.LittleEndian.Uint64(r.copied[48:]), asked(r)
	room := tail(head(out, replySize+int(size)), replySize)
	n, err := s.tree.read(handle, at, room)
	if err != nil { // also after some bytes, which would say that the file ends there
		return answer(out, r.unique, errno(err))
	}
	return reply(out, r.unique, n, 0)
}

func (r refused) reply(out [][]byte) (int, error) {
	if r.silent() {
		return 0, nil
	}
	return answer(out, r.unique, r.errno)
}

// begin serves FUSE_INIT, with which a client knows nothing yet.
func (s *session) begin(r request, out [][]byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree.reset()
	n, err := s.dispatch(r, out)
	if err == nil {
		s.init = slices.Clone(r.copied)
	}
	return n, err
}

// reset forgets the client.
func (s *session) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.init = nil
	s.tree.reset()
}

// dispatch has go-fuse take the request apart. The room for a reply is cut to
// what a request can ask for, since the library makes buffers by its size.
func (s *session) dispatch(r request, out [][]byte) (int, error) {
	const room = replySize + maxIO
	if length(out) > room {
		out = head(out, room)
	}
	in := append([][]byte{r.copied}, r.data...)
	n, code := s.server.HandleRequest(in, out)
	if code.Ok() || r.silent() {
		return n, nil
	}
	return answer(out, r.unique, unix.EIO) // the reply has no room, not even for the least
}

// sync is the guest's sync(2) and syncfs(2).
func (t *tree) sync() error {
	fd, err := t.links.open(t.inodes.root.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}

func errno(err error) unix.Errno { return unix.Errno(status(err)) }
