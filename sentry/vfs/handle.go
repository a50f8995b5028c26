package vfs

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Handled is a FileSystem whose files can be found by a handle (name_to_handle_at(2)).
type Handled interface{ Handles() }

// maxHandles is how many handles of a file system lead back to their files; older
// ones are stale (ESTALE), as they are on Linux once an inode has gone.
const maxHandles = 4096

// handles are the files of a Super that somebody asked a handle of.
type handles struct {
	mu    sync.Mutex
	of    map[uint64]*Dentry // by inode number
	order []uint64
}

// HandleOf is a number by which OpenHandle finds p's file again.
func HandleOf(ctx Context, p Path) (uint64, error) {
	s := p.Dentry.super
	if _, ok := s.fs.(Handled); !ok || p.Dentry.anon {
		return 0, unix.EOPNOTSUPP
	}
	a, err := p.Inode().Attr(ctx)
	if err != nil {
		return 0, err
	}
	h := &s.handles
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = map[uint64]*Dentry{}
	}
	if _, known := h.of[a.Ino]; !known {
		h.order = append(h.order, a.Ino)
		if len(h.order) > maxHandles {
			delete(h.of, h.order[0])
			h.order = slices.Delete(h.order, 0, 1)
		}
	}
	h.of[a.Ino] = p.Dentry
	return a.Ino, nil
}

// ByHandle is the place that a handle names, seen by m.
func (m *Mount) ByHandle(handle uint64) (Path, error) {
	h := &m.super.handles
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.of[handle]
	if d == nil || d.Dead() {
		return Path{}, unix.ESTALE
	}
	return Path{m, d}, nil
}
