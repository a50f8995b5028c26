package fs

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Sizes of the protocol (include/uapi/linux/fuse.h), in bytes.
const (
	headerSize = 40 // struct fuse_in_header
	writeSize  = 80 // and struct fuse_write_in
	replySize  = 16 // struct fuse_out_header

	// maxIO is the data of one READ or WRITE: 256 pages, which is the most that
	// a Linux client asks for unless its administrator says otherwise.
	maxIO = 1 << 20
	// maxRequest bounds all requests but WRITE. The largest is SETXATTR: 64 KiB
	// and a name.
	maxRequest = 68 << 10
)

// opcode is enum fuse_opcode.
type opcode uint32

const (
	opLookup        opcode = 1
	opForget        opcode = 2
	opGetattr       opcode = 3
	opSetattr       opcode = 4
	opReadlink      opcode = 5
	opSymlink       opcode = 6
	opMknod         opcode = 8
	opMkdir         opcode = 9
	opUnlink        opcode = 10
	opRmdir         opcode = 11
	opRename        opcode = 12
	opLink          opcode = 13
	opOpen          opcode = 14
	opRead          opcode = 15
	opWrite         opcode = 16
	opStatfs        opcode = 17
	opRelease       opcode = 18
	opFsync         opcode = 20
	opSetxattr      opcode = 21
	opGetxattr      opcode = 22
	opListxattr     opcode = 23
	opRemovexattr   opcode = 24
	opFlush         opcode = 25
	opInit          opcode = 26
	opOpendir       opcode = 27
	opReaddir       opcode = 28
	opReleasedir    opcode = 29
	opFsyncdir      opcode = 30
	opGetlk         opcode = 31
	opSetlk         opcode = 32
	opSetlkw        opcode = 33
	opAccess        opcode = 34
	opCreate        opcode = 35
	opInterrupt     opcode = 36
	opBmap          opcode = 37
	opDestroy       opcode = 38
	opIoctl         opcode = 39
	opPoll          opcode = 40
	opBatchForget   opcode = 42
	opFallocate     opcode = 43
	opReaddirplus   opcode = 44
	opRename2       opcode = 45
	opLseek         opcode = 46
	opCopyFileRange opcode = 47
	opSyncfs        opcode = 50
	opTmpfile       opcode = 51
)

// effect is what a request may do to the host's files.
type effect int

const (
	looks   effect = iota
	changes        // refused where the share is read-only
)

// A rule is what is checked of a request before anything else sees it.
type rule struct {
	name   string
	fixed  int // bytes before names and data, the header among them
	names  int // strings that must follow, each ended by NUL
	effect effect
	// refusal answers the request at once, for the reason in why.
	refusal unix.Errno
	why     string
}

// rules has a row for each request that a Linux client can send to a virtio-fs
// device; what has none gets ENOSYS, on which the client does without.
var rules = map[opcode]rule{
	opLookup:        {name: "LOOKUP", fixed: 40, names: 1},
	opForget:        {name: "FORGET", fixed: 48},
	opGetattr:       {name: "GETATTR", fixed: 56},
	opSetattr:       {name: "SETATTR", fixed: 128, effect: changes},
	opReadlink:      {name: "READLINK", fixed: 40},
	opSymlink:       {name: "SYMLINK", fixed: 40, names: 2, effect: changes},
	opMknod:         {name: "MKNOD", fixed: 56, names: 1, effect: changes},
	opMkdir:         {name: "MKDIR", fixed: 48, names: 1, effect: changes},
	opUnlink:        {name: "UNLINK", fixed: 40, names: 1, effect: changes},
	opRmdir:         {name: "RMDIR", fixed: 40, names: 1, effect: changes},
	opRename:        {name: "RENAME", fixed: 48, names: 2, effect: changes},
	opLink:          {name: "LINK", fixed: 48, names: 1, effect: changes},
	opOpen:          {name: "OPEN", fixed: 48}, // Open looks at the flags
	opRead:          {name: "READ", fixed: 80},
	opWrite:         {name: "WRITE", fixed: writeSize, effect: changes},
	opStatfs:        {name: "STATFS", fixed: 40},
	opRelease:       {name: "RELEASE", fixed: 64},
	opFsync:         {name: "FSYNC", fixed: 56},
	opSetxattr:      {name: "SETXATTR", fixed: 48, names: 1, effect: changes},
	opGetxattr:      {name: "GETXATTR", fixed: 48, names: 1},
	opListxattr:     {name: "LISTXATTR", fixed: 48},
	opRemovexattr:   {name: "REMOVEXATTR", fixed: 40, names: 1, effect: changes},
	opFlush:         {name: "FLUSH", fixed: 64, refusal: unix.ENOSYS, why: "a local file system has nothing to say at close; the client asks once"},
	opInit:          {name: "INIT", fixed: 56},
	opOpendir:       {name: "OPENDIR", fixed: 48},
	opReaddir:       {name: "READDIR", fixed: 80},
	opReleasedir:    {name: "RELEASEDIR", fixed: 64},
	opFsyncdir:      {name: "FSYNCDIR", fixed: 56},
	opGetlk:         {name: "GETLK", fixed: 88, refusal: unix.ENOSYS, why: "locks are the client's own: INIT does not take FUSE_POSIX_LOCKS"},
	opSetlk:         {name: "SETLK", fixed: 88, refusal: unix.ENOSYS, why: "as GETLK"},
	opSetlkw:        {name: "SETLKW", fixed: 88, refusal: unix.ENOSYS, why: "as GETLK, and it could hold a worker for ever"},
	opAccess:        {name: "ACCESS", fixed: 48, refusal: unix.ENOSYS, why: "a virtio-fs client decides by mode and owner (default_permissions)"},
	opCreate:        {name: "CREATE", fixed: 56, names: 1, effect: changes},
	opInterrupt:     {name: "INTERRUPT", fixed: 48},
	opBmap:          {name: "BMAP", fixed: 56, refusal: unix.ENOSYS, why: "a guest has no business with the host's blocks"},
	opDestroy:       {name: "DESTROY", fixed: 40},
	opIoctl:         {name: "IOCTL", fixed: 72, refusal: unix.ENOTTY, why: "the host's ioctls are not the guest's"},
	opPoll:          {name: "POLL", fixed: 64, refusal: unix.ENOSYS, why: "regular files are always ready"},
	opBatchForget:   {name: "BATCH_FORGET", fixed: 48},
	opFallocate:     {name: "FALLOCATE", fixed: 72, effect: changes},
	opReaddirplus:   {name: "READDIRPLUS", fixed: 80},
	opRename2:       {name: "RENAME2", fixed: 56, names: 2, effect: changes},
	opLseek:         {name: "LSEEK", fixed: 64},
	opCopyFileRange: {name: "COPY_FILE_RANGE", fixed: 96, effect: changes},
	opSyncfs:        {name: "SYNCFS", fixed: 48},
	opTmpfile:       {name: "TMPFILE", fixed: 56, effect: changes},
}

// silent are the requests that get no reply.
func (o opcode) silent() bool { return o == opForget || o == opBatchForget || o == opInterrupt }

func (o opcode) String() string {
	if r, ok := rules[o]; ok {
		return r.name
	}
	return fmt.Sprintf("opcode %d", uint32(o))
}

// A request is one that passed its rule. All but a WRITE's data is our copy.
type request struct {
	opcode
	rule
	unique uint64
	copied []byte   // the request; of a WRITE its first writeSize bytes
	data   [][]byte // a WRITE's data, where the guest keeps it
}

// refused is an answer to a request that needs nothing of the file system. It
// is an error because the request goes no further.
type refused struct {
	opcode
	unique uint64
	errno  unix.Errno
}

func (r refused) Error() string { return fmt.Sprintf("%v: %v", r.opcode, r.errno) }

// parse reads the request that in holds, which the guest may be changing. It
// returns refused for what is answered by an errno and any other error for what
// no answer can be given to. buf is where to copy to, if it is large enough.
func parse(in [][]byte, buf []byte) (request, error) {
	total := length(in)
	if total < headerSize {
		return request{}, fmt.Errorf("fs: a request of %d bytes has no FUSE header", total)
	}
	head := grow(buf, min(total, writeSize))
	copyOut(head, in, 0)
	r := request{
		opcode: opcode(binary.LittleEndian.Uint32(head[4:])),
		unique: binary.LittleEndian.Uint64(head[8:]),
	}
	refuse := func(errno unix.Errno) (request, error) { return r, refused{r.opcode, r.unique, errno} }

	if said := binary.LittleEndian.Uint32(head); uint64(said) != uint64(total) {
		return refuse(unix.EIO) // fs/fuse/virtio_fs.c sends the length of what it sends
	}
	known := false
	if r.rule, known = rules[r.opcode]; !known {
		return refuse(unix.ENOSYS)
	}
	switch {
	case r.refusal != 0:
		return refuse(r.refusal)
	case total < r.fixed:
		return refuse(unix.EINVAL)
	case r.opcode == opWrite:
		return parseWrite(r, head, in)
	case total > maxRequest:
		return refuse(unix.E2BIG)
	}
	r.copied = head
	if total > len(head) {
		r.copied = grow(buf, total)
		copy(r.copied, head) // already there unless buf was too small
		copyOut(r.copied[len(head):], in, len(head))
	}
	if bytes.Count(r.copied[r.fixed:], []byte{0}) < r.names {
		return refuse(unix.EINVAL)
	}
	if r.opcode == opInit {
		return parseInit(r)
	}
	if most := asked(r); most > maxIO {
		return refuse(unix.EINVAL)
	}
	return r, nil
}

func parseWrite(r request, head []byte, in [][]byte) (request, error) {
	r.copied, r.data = head, tail(in, writeSize)
	if said := binary.LittleEndian.Uint32(head[56:]); said > maxIO || int(said) != length(r.data) {
		return r, refused{r.opcode, r.unique, unix.EINVAL}
	}
	if binary.LittleEndian.Uint16(head[36:]) != 0 { // total_extlen: a WRITE has none
		return r, refused{r.opcode, r.unique, unix.EINVAL}
	}
	return r, nil
}

// parseInit accepts clients since Linux 5.4, the first with virtio-fs.
func parseInit(r request) (request, error) {
	const major, minor = 7, 31
	if binary.LittleEndian.Uint32(r.copied[40:]) != major || binary.LittleEndian.Uint32(r.copied[44:]) < minor {
		return r, refused{r.opcode, r.unique, unix.EPROTO}
	}
	return r, nil
}

// asked is how many bytes of reply a request names, past the header.
func asked(r request) uint32 {
	switch r.opcode {
	case opRead, opReaddir, opReaddirplus:
		return binary.LittleEndian.Uint32(r.copied[56:])
	case opGetxattr, opListxattr:
		return binary.LittleEndian.Uint32(r.copied[40:])
	}
	return 0
}

// answer writes a reply that is only an errno, and says how long it is.
func answer(out [][]byte, unique uint64, errno unix.Errno) (int, error) {
	return reply(out, unique, 0, errno)
}

// reply writes the header of a reply with n bytes of data, and says how long
// it is in all. It fails if the guest left no room for it.
func reply(out [][]byte, unique uint64, n int, errno unix.Errno) (int, error) {
	var b [replySize]byte
	binary.LittleEndian.PutUint32(b[0:], uint32(replySize+n))
	binary.LittleEndian.PutUint32(b[4:], uint32(-int32(errno)))
	binary.LittleEndian.PutUint64(b[8:], unique)
	if length(out) < replySize {
		return 0, fmt.Errorf("fs: %d bytes for a reply, whose header takes %d", length(out), replySize)
	}
	copyIn(out, b[:])
	return replySize + n, nil
}

// grow is the first n bytes of b, or n new ones if it has not so many.
func grow(b []byte, n int) []byte {
	if n <= cap(b) {
		return b[:n]
	}
	return make([]byte, n)
}

func length(segments [][]byte) int {
	n := 0
	for _, s := range segments {
		n += len(s)
	}
	return n
}

// copyOut fills to from what segments hold from byte at on.
func copyOut(to []byte, segments [][]byte, at int) {
	for _, s := range segments {
		if at >= len(s) {
			at -= len(s)
			continue
		}
		to = to[copy(to, s[at:]):]
		at = 0
	}
}

// copyIn fills segments from from.
func copyIn(segments [][]byte, from []byte) {
	for _, s := range segments {
		from = from[copy(s, from):]
	}
}

// tail is segments without their first n bytes.
func tail(segments [][]byte, n int) [][]byte {
	for i, s := range segments {
		if n < len(s) {
			rest := append([][]byte{s[n:]}, segments[i+1:]...)
			return rest
		}
		n -= len(s)
	}
	return nil
}

// head is the first n bytes of segments.
func head(segments [][]byte, n int) [][]byte {
	var first [][]byte
	for _, s := range segments {
		if n == 0 {
			break
		}
		s = s[:min(len(s), n)]
		first = append(first, s)
		n -= len(s)
	}
	return first
}
