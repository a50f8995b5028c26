package wire

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Request is one request; layouts says which fields count for which Op.
type Request struct {
	Tag      uint32
	Op       Op
	Released []uint32

	ID       uint32
	Name     string
	To       uint32
	ToName   string
	Flags    uint32
	Mode     uint32
	UID, GID uint32
	Rdev     uint64
	Set      Set
	Offset   uint64
	Names    []string
	Xattr    string
	Target   string
	Data     []byte
}

// Set is what SetAttr changes.
type Set struct {
	Mask         uint32
	Mode         uint32
	UID, GID     uint32
	Size         uint64
	Atime, Mtime Time
}

// Append encodes q behind b.
func (q *Request) Append(b []byte) []byte {
	b = le.AppendUint32(b, q.Tag)
	b = append(b, byte(q.Op))
	b = q.appendField(b, fReleased)
	for _, f := range layouts[q.Op].request {
		if f != fReleased { // Release is its header
			b = q.appendField(b, f)
		}
	}
	return b
}

func (q *Request) appendField(b []byte, f field) []byte {
	switch f {
	case fID:
		return le.AppendUint32(b, q.ID)
	case fName:
		return appendString(b, q.Name)
	case fTo:
		return le.AppendUint32(b, q.To)
	case fToName:
		return appendString(b, q.ToName)
	case fFlags:
		return le.AppendUint32(b, q.Flags)
	case fMode:
		return le.AppendUint32(b, q.Mode)
	case fOwner:
		return le.AppendUint32(le.AppendUint32(b, q.UID), q.GID)
	case fRdev:
		return le.AppendUint64(b, q.Rdev)
	case fSet:
		return q.Set.append(b)
	case fOffset:
		return le.AppendUint64(b, q.Offset)
	case fXattr:
		return appendString(b, q.Xattr)
	case fTarget:
		return appendString(b, q.Target)
	case fData:
		return append(le.AppendUint32(b, uint32(len(q.Data))), q.Data...)
	case fNames:
		b = le.AppendUint16(b, uint16(len(q.Names)))
		for _, n := range q.Names {
			b = appendString(b, n)
		}
		return b
	case fReleased:
		b = append(b, byte(len(q.Released)))
		for _, id := range q.Released {
			b = le.AppendUint32(b, id)
		}
		return b
	}
	panic("wire: field without an encoding in requests")
}

func (s *Set) append(b []byte) []byte {
	for _, v := range [...]uint32{s.Mask, s.Mode, s.UID, s.GID} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, s.Size)
	return appendTime(appendTime(b, s.Atime), s.Mtime)
}

// ParseRequest decodes what a Sentry sent, trusting nothing in it.
func ParseRequest(b []byte) (Request, error) {
	var q Request
	d := decoder{b: b}
	q.Tag, q.Op = d.u32(), Op(d.u8())
	if q.Op == 0 || q.Op >= opEnd {
		d.fail("operation %d", q.Op)
		return q, d.end("request")
	}
	q.decodeField(&d, fReleased)
	for _, f := range layouts[q.Op].request {
		if f != fReleased {
			q.decodeField(&d, f)
		}
	}
	return q, d.end("request " + q.Op.String())
}

func (q *Request) decodeField(d *decoder, f field) {
	switch f {
	case fID:
		q.ID = d.u32()
	case fName:
		q.Name = d.optional("name")
	case fTo:
		q.To = d.u32()
	case fToName:
		q.ToName = d.component("new name")
	case fFlags:
		q.Flags = d.u32()
	case fMode:
		q.Mode = d.u32()
	case fOwner:
		q.UID, q.GID = d.u32(), d.u32()
	case fRdev:
		q.Rdev = d.u64()
	case fSet:
		q.Set = Set{d.u32(), d.u32(), d.u32(), d.u32(), d.u64(), d.time(), d.time()}
	case fOffset:
		q.Offset = d.u64()
	case fXattr:
		q.Xattr = d.str("attribute name", MaxName)
	case fTarget:
		q.Target = d.str("target", MaxTarget)
	case fData:
		q.Data = d.data(MaxXattr)
	case fNames:
		q.Names = make([]string, 0, d.count("names", MaxWalk, 3))
		for range cap(q.Names) {
			q.Names = append(q.Names, d.component("name"))
		}
	case fReleased:
		n := int(d.u8())
		if 4*n > len(d.b) {
			d.fail("%d ids in %d bytes", n, len(d.b))
			return
		}
		for range n {
			q.Released = append(q.Released, d.u32())
		}
	default:
		panic("wire: field without a decoding in requests")
	}
}

// check is what the Sentry's end asks of its own requests, so that no name from
// an application can make the gofer end the connection.
func (q *Request) check() error {
	switch {
	case len(q.Name) > MaxName, len(q.ToName) > MaxName, len(q.Target) > MaxTarget:
		return unix.ENAMETOOLONG
	case len(q.Xattr) > MaxName:
		return unix.ERANGE
	case len(q.Data) > MaxXattr:
		return unix.E2BIG
	case len(q.Names) > MaxWalk, len(q.Released) > MaxReleased:
		return errors.New("gofer: too many names or ids in a request")
	}
	return nil
}
