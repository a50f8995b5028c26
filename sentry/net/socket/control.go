package socket

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Control is the ancillary data of a message.
type Control struct {
	Rights []*vfs.Description // SCM_RIGHTS
	Creds  *unix.Ucred        // SCM_CREDENTIALS
	Other  []ControlMessage
}

// ControlMessage is one that only its family understands.
type ControlMessage struct {
	Level, Type int32
	Data        []byte
}

const (
	headerSize = 16  // struct cmsghdr
	maxRights  = 253 // SCM_MAX_FD, include/net/scm.h
	ucredSize  = 12
)

func align(n int) int { return (n + 7) &^ 7 } // CMSG_ALIGN

// ParseControl reads msg_control. Descriptors come from fds, with references
// that Release drops.
func ParseControl(c Caller, fds *vfs.FDTable, b []byte) (Control, error) {
	var out Control
	err := out.parse(c, fds, b)
	if err != nil {
		out.Release()
		return Control{}, err
	}
	return out, nil
}

func (out *Control) parse(c Caller, fds *vfs.FDTable, b []byte) error {
	le := binary.LittleEndian
	for len(b) >= headerSize {
		size := le.Uint64(b)
		if size < headerSize || size > uint64(len(b)) {
			return unix.EINVAL
		}
		m := ControlMessage{int32(le.Uint32(b[8:])), int32(le.Uint32(b[12:])), b[headerSize:size]}
		b = b[min(align(int(size)), len(b)):]
		if err := out.add(c, fds, m); err != nil {
			return err
		}
	}
	return nil
}

func (out *Control) add(c Caller, fds *vfs.FDTable, m ControlMessage) error {
	switch {
	case m.Level != unix.SOL_SOCKET:
		m.Data = append([]byte(nil), m.Data...)
		out.Other = append(out.Other, m)
		return nil
	case m.Type == unix.SCM_RIGHTS:
		return out.addRights(fds, m.Data)
	case m.Type == unix.SCM_CREDENTIALS:
		return out.addCreds(c, m.Data)
	}
	return unix.EINVAL
}

func (out *Control) addRights(fds *vfs.FDTable, b []byte) error {
	if len(out.Rights)+len(b)/4 > maxRights {
		return unix.EINVAL
	}
	for ; len(b) >= 4; b = b[4:] {
		d, err := fds.Get(int(int32(binary.LittleEndian.Uint32(b))))
		if err != nil {
			return err
		}
		out.Rights = append(out.Rights, d)
	}
	return nil
}

// addCreds accepts what the sender is, or may claim to be (net/core/scm.c,
// scm_check_creds).
func (out *Control) addCreds(c Caller, b []byte) error {
	if len(b) != ucredSize {
		return unix.EINVAL
	}
	le := binary.LittleEndian
	u := &unix.Ucred{Pid: int32(le.Uint32(b)), Uid: le.Uint32(b[4:]), Gid: le.Uint32(b[8:])}
	u, err := meant(c, u)
	out.Creds = u
	return err
}

// Release drops the references to descriptors.
func (out *Control) Release() {
	for _, d := range out.Rights {
		d.Unref()
	}
	out.Rights = nil
}

// Encode writes in as msg_control of at most size bytes. install gives a
// descriptor its number; those that do not fit, or that there is no number for,
// are dropped, and truncated says so (MSG_CTRUNC). The references in Rights are
// the caller's to drop.
func (in *Control) Encode(size int, install func(*vfs.Description) (int, error)) (b []byte, truncated bool) {
	if in.Creds != nil {
		le := binary.LittleEndian
		u := le.AppendUint32(nil, uint32(in.Creds.Pid))
		u = le.AppendUint32(le.AppendUint32(u, in.Creds.Uid), in.Creds.Gid)
		b, truncated = appendMessage(b, size, ControlMessage{unix.SOL_SOCKET, unix.SCM_CREDENTIALS, u})
	}
	if len(in.Rights) > 0 {
		var cut bool
		b, cut = in.encodeRights(b, size, install)
		truncated = truncated || cut
	}
	for _, m := range in.Other {
		var cut bool
		b, cut = appendMessage(b, size, m)
		truncated = truncated || cut
	}
	return b, truncated
}

func (in *Control) encodeRights(b []byte, size int, install func(*vfs.Description) (int, error)) ([]byte, bool) {
	room := max(size-len(b)-headerSize, 0) / 4
	var nums []byte
	for _, d := range in.Rights[:min(room, len(in.Rights))] {
		fd, err := install(d)
		if err != nil {
			break
		}
		nums = binary.LittleEndian.AppendUint32(nums, uint32(fd))
	}
	cut := len(nums)/4 < len(in.Rights)
	if len(nums) == 0 {
		return b, cut
	}
	b, _ = appendMessage(b, size, ControlMessage{unix.SOL_SOCKET, unix.SCM_RIGHTS, nums})
	return b, cut
}

// appendMessage adds m, cut to fit (net/core/scm.c, put_cmsg).
func appendMessage(b []byte, size int, m ControlMessage) (_ []byte, cut bool) {
	if size-len(b) < headerSize {
		return b, true
	}
	data := m.Data
	if room := size - len(b) - headerSize; len(data) > room {
		data, cut = data[:room], true
	}
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(headerSize+len(data)))
	b = le.AppendUint32(b, uint32(m.Level))
	b = le.AppendUint32(b, uint32(m.Type))
	b = append(b, data...)
	for pad := align(len(b)) - len(b); pad > 0 && len(b) < size; pad-- {
		b = append(b, 0)
	}
	return b, cut
}
