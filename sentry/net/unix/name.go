package unix

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"weak"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/socket"
	"bulkhead/sentry/vfs"
)

// Names is where sockets of one network namespace find each other. It keeps no
// socket alive.
type Names struct {
	mu       sync.Mutex
	abstract map[abstractKey]weak.Pointer[Endpoint]
	inodes   map[any]weak.Pointer[Endpoint]    // by vfs.Identity
	all      map[uint64]weak.Pointer[Endpoint] // for /proc/net/unix
	auto     uint32                            // last autobind
	watch    func(fd int, q *vfs.Queue) (stop func(), err error)
	sweep    int // with so many sockets, those that the collector took are looked for
}

// fewSockets is from how many on that pays.
const fewSockets = 128

// abstractKey has the type in it: a name may be taken once by each.
type abstractKey struct {
	name string
	typ  int
}

// name is what a socket is bound to. It does not change.
type name struct {
	path string // as bind(2) got it, or "\0…"
	at   vfs.Path
}

// NewNames makes an empty namespace.
func NewNames() *Names {
	return &Names{
		abstract: map[abstractKey]weak.Pointer[Endpoint]{},
		inodes:   map[any]weak.Pointer[Endpoint]{},
		all:      map[uint64]weak.Pointer[Endpoint]{},
	}
}

func (ns *Names) add(e *Endpoint) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if len(ns.all) >= ns.sweep {
		ns.sweepLocked()
	}
	ns.all[e.id] = weak.Make(e)
}

// sweepLocked forgets the sockets that nobody can reach and nobody released: those that
// were sent through themselves (see the package's comment).
func (ns *Names) sweepLocked() {
	maps.DeleteFunc(ns.all, func(_ uint64, p weak.Pointer[Endpoint]) bool { return p.Value() == nil })
	maps.DeleteFunc(ns.abstract, func(_ abstractKey, p weak.Pointer[Endpoint]) bool { return p.Value() == nil })
	maps.DeleteFunc(ns.inodes, func(_ any, p weak.Pointer[Endpoint]) bool { return p.Value() == nil })
	ns.sweep = max(fewSockets, 2*len(ns.all))
}

func (ns *Names) remove(e *Endpoint, n *name) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	delete(ns.all, e.id)
	if n == nil {
		return
	}
	if n.at.Ok() {
		if i := vfs.Identity(n.at.Inode()); ns.inodes[i].Value() == e {
			delete(ns.inodes, i)
		}
	} else if k := (abstractKey{n.path, e.typ}); ns.abstract[k].Value() == e {
		delete(ns.abstract, k)
	}
}

// The longest sockaddr_un, and where its path begins.
const (
	maxName    = 110
	pathOffset = 2
)

// parseName takes a sockaddr_un apart: a path without its NUL, or an abstract
// name with its leading NUL. unix_validate_addr.
func parseName(b []byte) (string, error) {
	if len(b) <= pathOffset || len(b) > maxName || binary.LittleEndian.Uint16(b) != unix.AF_UNIX {
		return "", unix.EINVAL
	}
	p := b[pathOffset:]
	if p[0] != 0 {
		if i := bytes.IndexByte(p, 0); i >= 0 {
			p = p[:i]
		}
	}
	return string(p), nil
}

// sockaddr is the name as getsockname(2) shows it.
func (n *name) sockaddr() []byte {
	b := binary.LittleEndian.AppendUint16(nil, unix.AF_UNIX)
	if n == nil {
		return b
	}
	b = append(b, n.path...)
	if n.path[0] != 0 {
		b = append(b, 0)
	}
	return b
}

// Bind is bind(2).
func (e *Endpoint) Bind(c socket.Caller, b []byte) error {
	if len(b) == pathOffset && binary.LittleEndian.Uint16(b) == unix.AF_UNIX {
		return e.autobind()
	}
	p, err := parseName(b)
	if err != nil {
		return err
	}
	e.bindMu.Lock()
	defer e.bindMu.Unlock()
	e.mu.Lock()
	bound := e.name != nil
	e.mu.Unlock()
	if p[0] == 0 {
		if bound {
			return unix.EINVAL
		}
		return e.bindAbstract(p)
	}
	return e.bindPath(c, p, bound)
}

func (e *Endpoint) bindPath(c socket.Caller, p string, bound bool) error {
	a, err := e.inode.Attr(c)
	if err != nil {
		return err
	}
	fs := c.FS()
	at, err := vfs.Mknod(c, fs.Start(), p, unix.S_IFSOCK|a.Mode&0o777&^fs.Umask(), 0)
	if err == unix.EEXIST {
		return unix.EADDRINUSE
	}
	if err != nil {
		return err
	}
	if bound { // found out this late by Linux too
		vfs.Unlink(c, fs.Start(), p)
		return unix.EINVAL
	}
	e.names.mu.Lock()
	e.names.inodes[vfs.Identity(at.Inode())] = weak.Make(e)
	e.names.mu.Unlock()
	e.setName(&name{p, at})
	return nil
}

func (e *Endpoint) setName(n *name) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.name = n
}

func (e *Endpoint) bindAbstract(p string) error {
	ns := e.names
	k := abstractKey{p, e.typ}
	ns.mu.Lock()
	taken := ns.abstract[k].Value() != nil
	if !taken {
		ns.abstract[k] = weak.Make(e)
	}
	ns.mu.Unlock()
	if taken {
		return unix.EADDRINUSE
	}
	e.setName(&name{path: p})
	return nil
}

// autobind takes a free abstract name of five hexadecimal digits.
func (e *Endpoint) autobind() error {
	e.bindMu.Lock()
	defer e.bindMu.Unlock()
	e.mu.Lock()
	bound := e.name != nil
	e.mu.Unlock()
	if bound {
		return nil
	}
	for range 1 << 20 {
		e.names.mu.Lock()
		e.names.auto = (e.names.auto + 1) & 0xfffff
		n := e.names.auto
		e.names.mu.Unlock()
		if err := e.bindAbstract(fmt.Sprintf("\x00%05x", n)); err != unix.EADDRINUSE {
			return err
		}
	}
	return unix.ENOSPC
}

// find is the socket of a given name that a socket of type typ may talk to.
// unix_find_other.
func (ns *Names) find(c socket.Caller, p string, typ int) (*Endpoint, error) {
	if p[0] == 0 {
		ns.mu.Lock()
		defer ns.mu.Unlock()
		if e := ns.abstract[abstractKey{p, typ}].Value(); e != nil {
			return e, nil
		}
		return nil, unix.ECONNREFUSED
	}
	at, err := vfs.Resolve(c, c.FS().Start(), p, 0)
	if err != nil {
		return nil, err
	}
	if err := vfs.CheckAccess(c, at, vfs.MayWrite); err != nil {
		return nil, err
	}
	ns.mu.Lock()
	e := ns.inodes[vfs.Identity(at.Inode())].Value()
	ns.mu.Unlock()
	switch {
	case e == nil:
		return nil, unix.ECONNREFUSED
	case e.typ != typ:
		return nil, unix.EPROTOTYPE
	}
	return e, nil
}

// bound: a socket of ours has the name.
func (ns *Names) bound(i vfs.Inode) bool {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.inodes[vfs.Identity(i)].Value() != nil
}

// Name is getsockname(2).
func (e *Endpoint) Name() ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.name.sockaddr(), nil
}

// Peer is getpeername(2).
func (e *Endpoint) Peer() ([]byte, error) {
	e.mu.Lock()
	peer := e.peer
	e.mu.Unlock()
	if h := e.host.Load(); h != nil {
		return (&name{path: h.path}).sockaddr(), nil
	}
	if peer == nil {
		return nil, unix.ENOTCONN
	}
	return peer.Name()
}

// Table is the body of /proc/net/unix (af_unix.c, unix_seq_show). Where the
// kernel prints a pointer stands the socket's number.
func (ns *Names) Table() []byte {
	ns.mu.Lock()
	all := make([]*Endpoint, 0, len(ns.all))
	for _, w := range ns.all {
		if e := w.Value(); e != nil {
			all = append(all, e)
		}
	}
	ns.mu.Unlock()
	slices.SortFunc(all, func(a, b *Endpoint) int { return int(int64(a.id) - int64(b.id)) })
	var b []byte
	for _, e := range all {
		b = e.appendRow(b)
	}
	return b
}

func (e *Endpoint) appendRow(b []byte) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	// SS_UNCONNECTED and SS_CONNECTED, or SYN_SENT and FREE before accept.
	st, flags := 1, 0
	switch e.state {
	case listening:
		flags = 1 << 16 // __SO_ACCEPTCON
	case established:
		st = 3
	}
	b = fmt.Appendf(b, "%016x: %08X %08X %08X %04X %02X %5d", e.id, 2, 0, flags, e.typ, st, e.inode.Ino())
	if e.name != nil {
		b = append(b, ' ')
		b = append(b, strings.ReplaceAll(e.name.path, "\x00", "@")...)
	}
	return append(b, '\n')
}
