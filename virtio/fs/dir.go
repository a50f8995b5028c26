package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// stream is a directory being read. Offsets are the host's own (d_off), so that
// seekdir, and a restored machine, find their place.
type stream struct {
	at   uint64 // offset of what rest begins with
	rest []byte // entries read from the host and not yet given
	buf  []byte
}

func (t *tree) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, err := t.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer t.inodes.put(n)
	if n.kind != unix.S_IFDIR {
		return fuse.ENOTDIR
	}
	fd, err := t.openQuietly(n.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return status(err)
	}
	h, err := t.handles.add(n.id, fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return status(err)
	}
	out.Fh = h.id
	return fuse.OK
}

func (t *tree) ReleaseDir(in *fuse.ReleaseIn) { t.handles.release(in.Fh) }

func (t *tree) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return t.Fsync(cancel, in)
}

func (t *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return t.withHandle(in.Fh, func(h *handle) error {
		return h.read(in.Offset, func(e fuse.DirEntry) bool { return out.AddDirEntry(e) })
	})
}

// ReadDirPlus tells of each entry as LOOKUP would. What cannot be looked up (it
// went away meanwhile, or descriptors are short) is given by name alone.
func (t *tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir, err := t.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer t.inodes.put(dir)
	return t.withHandle(in.Fh, func(h *handle) error {
		return h.read(in.Offset, func(e fuse.DirEntry) bool {
			entry := out.AddDirLookupEntry(e)
			if entry == nil {
				return false
			}
			if checkName(e.Name) != nil || t.enter(place{dir, e.Name}, entry, 0) != nil {
				*entry = fuse.EntryOut{} // NodeId 0: no lookup was made
				return true
			}
			out.FixMode(entry.Mode)
			return true
		})
	})
}

// read gives the entries from offset on until give says that it is full.
func (h *handle) read(offset uint64, give func(fuse.DirEntry) bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.stream
	if offset != s.at || offset == 0 { // offset 0 is rewinddir, and looks again
		if _, err := unix.Seek(h.fd, int64(offset), unix.SEEK_SET); err != nil {
			return err
		}
		s.at, s.rest = offset, nil
	}
	for given := false; ; {
		if len(s.rest) == 0 {
			if err := s.fill(h.fd); err != nil && !given {
				return err
			}
			if len(s.rest) == 0 {
				return nil
			}
		}
		var e fuse.DirEntry
		size := e.Parse(s.rest)
		if !give(e) {
			if !given {
				return unix.EINVAL // as getdents64(2) says to a buffer too small for one
			}
			return nil
		}
		given = true
		s.at, s.rest = e.Off, s.rest[size:]
	}
}

func (s *stream) fill(fd int) error {
	const enough = 32 << 10 // as glibc's opendir
	if s.buf == nil {
		s.buf = make([]byte, enough)
	}
	n, err := unix.Getdents(fd, s.buf)
	s.rest = s.buf[:max(n, 0)]
	return err
}
