package fs

import (
	"encoding/json"
	"fmt"
	"slices"

	"bulkhead/virtio"

	"golang.org/x/sys/unix"
)

const stateVersion = 1

// state is what Save writes: JSON, so that a person can see which files a
// snapshot depends on.
type state struct {
	Version    int
	Init       []byte // the client's FUSE_INIT; nothing if the share is not mounted
	Root       savedInode
	Inodes     []savedInode
	Handles    []savedHandle
	NextInode  uint64
	NextHandle uint64
}

type savedInode struct {
	ID, Dev, Ino uint64
	Born         unix.StatxTimestamp
	Kind         uint32
	Lookups      uint64
	Places       []savedPlace `json:",omitempty"`
}

type savedPlace struct {
	Dir  uint64 // its inode
	Name string
}

type savedHandle struct {
	ID, Inode uint64
	Flags     uint32
}

// Save keeps what the guest knows of files.
func (d *Device) Save() ([]byte, error) {
	t := d.session.tree
	s := state{
		Version: stateVersion, Init: d.session.init, Root: saved(t.inodes.root),
		NextInode: t.inodes.next, NextHandle: t.handles.next,
	}
	for _, n := range t.inodes.ids {
		if n != t.inodes.root {
			s.Inodes = append(s.Inodes, saved(n))
		}
	}
	for _, h := range t.handles.open {
		s.Handles = append(s.Handles, savedHandle{h.id, h.node, h.flags})
	}
	slices.SortFunc(s.Inodes, func(a, b savedInode) int { return int(int64(a.ID - b.ID)) })
	slices.SortFunc(s.Handles, func(a, b savedHandle) int { return int(int64(a.ID - b.ID)) })
	return json.Marshal(s)
}

func saved(n *inode) savedInode {
	s := savedInode{ID: n.id, Dev: n.dev, Ino: n.ino, Born: n.born, Kind: n.kind, Lookups: n.lookups}
	for _, at := range n.at {
		s.Places = append(s.Places, savedPlace{at.dir.id, at.name})
	}
	return s
}

// Restore takes up a saved session. Files are opened again when they are used,
// those that were open now.
func (d *Device) Restore(b []byte) error {
	var s state
	if err := virtio.ParseState(b, &s); err != nil {
		return fmt.Errorf("fs: restore share %s: %w", d.tag, err)
	}
	if s.Version != stateVersion {
		return fmt.Errorf("fs: restore share %s: state of version %d; this program reads %d", d.tag, s.Version, stateVersion)
	}
	t := d.session.tree
	root := t.inodes.root
	if s.Root.Ino != root.ino || s.Root.Born.Sec != root.born.Sec || s.Root.Born.Nsec != root.born.Nsec {
		return fmt.Errorf("fs: restore share %s: it is not the directory that was shared when the snapshot was taken", d.tag)
	}
	d.session.reset()
	if s.Init == nil {
		return nil
	}
	if err := d.session.resume(s.Init); err != nil {
		return fmt.Errorf("fs: restore share %s: its FUSE_INIT: %w", d.tag, err)
	}
	if err := t.inodes.restore(s); err != nil {
		d.session.reset()
		return fmt.Errorf("fs: restore share %s: %w", d.tag, err)
	}
	if lost := t.reopen(s); lost > 0 {
		d.session.log.Warn("files that were open when the snapshot was taken are gone", "device", "fs", "share", d.tag, "files", lost)
	}
	return nil
}

// resume has the client's FUSE_INIT answered once more, to nobody.
func (s *session) resume(init []byte) error {
	r, err := parse([][]byte{init}, nil)
	if err != nil {
		return err
	}
	if r.opcode != opInit {
		return refused{r.opcode, r.unique, unix.EPROTO}
	}
	_, err = s.begin(r, [][]byte{make([]byte, replySize+64)})
	return err
}

// restore fills the table. A snapshot is a file that somebody may have changed,
// so it is not trusted to be a tree.
func (t *table) restore(s state) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(s.Inodes) > t.most {
		return fmt.Errorf("%d inodes; %d are served", len(s.Inodes), t.most)
	}
	for _, in := range s.Inodes {
		n := &inode{id: in.ID, kind: in.Kind, lookups: in.Lookups, fd: -1}
		n.identity = identity{in.Dev, in.Ino, in.Born}
		if in.Dev == s.Root.Dev {
			n.dev = t.root.dev // which the host may have numbered anew
		}
		if t.ids[n.id] != nil || t.files[n.identity] != nil || n.id >= s.NextInode {
			return fmt.Errorf("inode %d twice, or %d:%d", n.id, n.dev, n.ino)
		}
		t.ids[n.id], t.files[n.identity] = n, n
	}
	for _, in := range s.Inodes {
		for _, at := range in.Places { // none: it had no name any more, and is ESTALE
			dir := t.ids[at.Dir]
			switch {
			case dir == nil: // the guest has forgotten it
			case dir.kind != unix.S_IFDIR:
				return fmt.Errorf("inode %d lies in %d, which is no directory", in.ID, at.Dir)
			case checkName(at.Name) != nil:
				return fmt.Errorf("inode %d is called %q", in.ID, at.Name)
			default:
				t.placeLocked(t.ids[in.ID], place{dir, at.Name})
			}
		}
	}
	t.next = max(s.NextInode, t.next)
	return nil
}

// reopen opens what the guest had open, and says how many are gone. Those keep
// their number, and answer with ESTALE.
func (t *tree) reopen(s state) (lost int) {
	for _, saved := range s.Handles {
		if saved.ID >= s.NextHandle || len(t.handles.open) >= t.handles.most {
			lost++
			continue
		}
		h := &handle{id: saved.ID, node: saved.Inode, flags: saved.Flags, users: 1, fd: -1}
		flags := saved.Flags & (unix.O_ACCMODE | unix.O_SYNC | unix.O_DIRECTORY)
		if t.readOnly {
			flags = flags&^unix.O_ACCMODE | unix.O_RDONLY
		}
		if n, err := t.inodes.get(saved.Inode); err == nil {
			if n.kind == unix.S_IFREG || n.kind == unix.S_IFDIR {
				h.fd, _ = t.openQuietly(n.fd, flags)
			}
			t.inodes.put(n)
		}
		if h.fd < 0 {
			lost++
		}
		t.handles.restore(h)
	}
	t.handles.next = s.NextHandle
	return lost
}

func (t *handles) restore(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.open[h.id]; old != nil {
		t.putLocked(old)
	}
	t.open[h.id] = h
}
