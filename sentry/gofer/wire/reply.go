package wire

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Reply is one reply; layouts says which fields count for which Op.
type Reply struct {
	Tag   uint32
	Errno unix.Errno // all else is absent unless 0

	ID      uint32
	Attr    Attr
	Dir     Attr
	ToDir   Attr
	Nodes   []Node
	Stop    unix.Errno
	Entries []Entry
	Short   []Short
	End     bool // Entries or Short reach the end of the directory
	Roots   []Root
	Target  string
	Data    []byte
	Statfs  unix.Statfs_t

	FD int // the descriptor that came along, or -1; the receiver owns it
}

// Append encodes r, the reply to op, behind b.
func (r *Reply) Append(b []byte, op Op) []byte {
	b = le.AppendUint32(b, r.Tag)
	b = le.AppendUint16(b, uint16(r.Errno))
	if r.Errno != 0 {
		return b
	}
	for _, f := range layouts[op].reply {
		b = r.appendField(b, f)
	}
	return b
}

func (r *Reply) appendField(b []byte, f field) []byte {
	switch f {
	case fID:
		return le.AppendUint32(b, r.ID)
	case fAttr:
		return appendAttr(b, &r.Attr)
	case fDir:
		return appendAttr(b, &r.Dir)
	case fToDir:
		return appendAttr(b, &r.ToDir)
	case fStop:
		return le.AppendUint16(b, uint16(r.Stop))
	case fTarget:
		return appendString(b, r.Target)
	case fData:
		return append(le.AppendUint32(b, uint32(len(r.Data))), r.Data...)
	case fEnd:
		if r.End {
			return append(b, 1)
		}
		return append(b, 0)
	case fNodes:
		b = le.AppendUint16(b, uint16(len(r.Nodes)))
		for i := range r.Nodes {
			b = le.AppendUint32(b, r.Nodes[i].ID)
			b = appendAttr(b, &r.Nodes[i].Attr)
			b = appendString(b, r.Nodes[i].Target)
		}
		return b
	case fEntries:
		b = le.AppendUint16(b, uint16(len(r.Entries)))
		for i := range r.Entries {
			b = r.Entries[i].append(b)
		}
		return b
	case fShort:
		b = le.AppendUint16(b, uint16(len(r.Short)))
		for i := range r.Short {
			e := &r.Short[i]
			b = le.AppendUint64(le.AppendUint64(appendString(b, e.Name), e.Cookie), e.Ino)
			b = append(b, e.Type)
		}
		return b
	case fRoots:
		b = le.AppendUint16(b, uint16(len(r.Roots)))
		for i := range r.Roots {
			b = le.AppendUint32(b, r.Roots[i].Flags)
			b = appendAttr(b, &r.Roots[i].Attr)
		}
		return b
	case fStatfs:
		s := &r.Statfs
		for _, v := range [...]uint64{uint64(s.Type), uint64(s.Bsize), s.Blocks, s.Bfree, s.Bavail, s.Files, s.Ffree,
			uint64(s.Namelen), uint64(s.Frsize), uint64(s.Flags)} {
			b = le.AppendUint64(b, v)
		}
		return b
	}
	panic("wire: field without an encoding in replies")
}

func (e *Entry) append(b []byte) []byte {
	b = appendString(b, e.Name)
	b = le.AppendUint64(b, e.Cookie)
	return appendAttr(b, &e.Attr)
}

// Size is how many bytes e takes in a reply.
func (e *Entry) Size() int { return 2 + len(e.Name) + 8 + attrSize }

// Size is how many bytes e takes in a reply.
func (e *Short) Size() int { return 2 + len(e.Name) + 8 + 8 + 1 }

// replyTag is whom a reply is for.
func replyTag(b []byte) (uint32, bool) {
	if len(b) < 6 {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b), true
}

// ParseReply decodes the reply to a request of op; the gofer is not trusted.
func ParseReply(b []byte, op Op) (Reply, error) {
	r := Reply{FD: -1}
	d := decoder{b: b}
	r.Tag, r.Errno = d.u32(), unix.Errno(d.u16())
	if r.Errno == 0 {
		for _, f := range layouts[op].reply {
			r.decodeField(&d, f)
		}
	} else if r.Errno > 4095 { // include/linux/err.h, MAX_ERRNO
		d.fail("errno %d", r.Errno)
	}
	return r, d.end("reply to " + op.String())
}

func (r *Reply) decodeField(d *decoder, f field) {
	switch f {
	case fID:
		r.ID = d.u32()
	case fAttr:
		r.Attr = d.attr()
	case fDir:
		r.Dir = d.attr()
	case fToDir:
		r.ToDir = d.attr()
	case fStop:
		if r.Stop = unix.Errno(d.u16()); r.Stop > 4095 {
			d.fail("errno %d", r.Stop)
		}
	case fTarget:
		r.Target = d.str("target", MaxTarget)
	case fData:
		r.Data = d.data(MaxXattr)
	case fEnd:
		r.End = d.u8() != 0
	case fNodes:
		n := d.count("nodes", MaxWalk, 4+attrSize+2)
		for range n {
			r.Nodes = append(r.Nodes, Node{d.u32(), d.attr(), d.str("target", MaxTarget)})
		}
	case fEntries:
		n := d.count("entries", MaxEntries, 2+1+8+attrSize)
		if n > 0 {
			r.Entries = make([]Entry, 0, n)
		}
		for range n {
			r.Entries = append(r.Entries, Entry{d.component("entry"), d.u64(), d.attr()})
		}
	case fShort:
		n := d.count("names", MaxEntries, 2+1+8+8+1)
		r.Short = make([]Short, 0, n)
		for range n {
			r.Short = append(r.Short, Short{d.component("name"), d.u64(), d.u64(), d.u8()})
		}
	case fRoots:
		n := d.count("attachments", MaxRoots, 4+attrSize)
		for range n {
			r.Roots = append(r.Roots, Root{d.u32(), d.attr()})
		}
	case fStatfs:
		r.Statfs = unix.Statfs_t{Type: int64(d.u64()), Bsize: int64(d.u64()), Blocks: d.u64(), Bfree: d.u64(), Bavail: d.u64(),
			Files: d.u64(), Ffree: d.u64(), Namelen: int64(d.u64()), Frsize: int64(d.u64()), Flags: int64(d.u64())}
	default:
		panic("wire: field without a decoding in replies")
	}
}
