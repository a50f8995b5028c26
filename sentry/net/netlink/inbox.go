package netlink

import (
	"golang.org/x/sys/unix"
)

const (
	// overhead is what a datagram costs beside its bytes: struct sk_buff and
	// struct skb_shared_info, as SKB_TRUESIZE counts them on amd64.
	overhead = 576

	// A part of a dump has at least partLeast bytes (NLMSG_GOODSIZE, a page without
	// skb_shared_info), and up to partMost if the program reads into so large a buffer.
	partLeast = 4096 - 320
	partMost  = 32768 - 320
)

// inbox is what waits for the program: datagrams, as many as SO_RCVBUF holds, and the
// dump that is made as they are read (net/netlink/af_netlink.c). A program that only
// asks and never reads so gets no more of the Sentry's memory than that.
type inbox struct {
	in      []datagram
	charged int   // bytes of in, with overhead
	dump    *dump // that has not come to its end; a second one is EBUSY
	part    int   // the largest buffer that the program has read into

	drops     uint32
	lost      bool // ENOBUFS is to be told
	congested bool // something was lost, and nothing comes in before all is read
}

// datagram is one that waits; group is what it was sent to, 0 of an answer.
type datagram struct {
	data  []byte
	group int
}

// dump is a list that a program asked for. Only the request is kept and how many
// objects were told: the list is made anew for each part, as Linux walks its tables
// anew, so that a dump that nobody reads costs nothing.
type dump struct {
	h    header
	list func() (typ uint16, objects [][]byte)
	told int
}

// putLocked adds an answer. Without room it is lost, of which the next recv(2) tells
// (netlink_attachskb, netlink_overrun): the datagram that fills the buffer still has
// room, as in Linux.
func (s *Socket) putLocked(b []byte, group int) {
	if s.charged > s.opts.Receive() || s.congested {
		s.drops++
		if s.flags[unix.NETLINK_NO_ENOBUFS] == 0 && !s.congested {
			s.congested, s.lost = true, true
		}
		return
	}
	s.appendLocked(datagram{b, group})
}

func (s *Socket) appendLocked(d datagram) {
	s.in = append(s.in, d)
	s.charged += len(d.data) + overhead
}

// dropLocked takes the first datagram away.
func (s *Socket) dropLocked() {
	s.charged -= len(s.in[0].data) + overhead
	s.in[0] = datagram{}
	s.in = s.in[1:]
	if len(s.in) == 0 {
		s.in, s.congested = nil, false
	}
}

// takeError returns ENOBUFS once if answers were lost.
func (s *Socket) takeError() error {
	if !s.lost {
		return nil
	}
	s.lost = false
	return unix.ENOBUFS
}

// startLocked begins a dump and makes its first part (__netlink_dump_start): EBUSY
// while there is another, ENOBUFS if there is no room, and then it begins when there is.
func (s *Socket) startLocked(h header, list func() (uint16, [][]byte)) unix.Errno {
	if s.dump != nil {
		return unix.EBUSY
	}
	s.dump = &dump{h: h, list: list}
	if s.charged >= s.opts.Receive() {
		return unix.ENOBUFS
	}
	s.continueLocked()
	return 0
}

// continueLocked makes the next part of the dump: as many objects as it has bytes for,
// at least one, and NLMSG_DONE if that has room behind the last.
func (s *Socket) continueLocked() {
	d, room := s.dump, max(s.part, partLeast)
	typ, objects := d.list()
	var b []byte
	for d.told < len(objects) {
		m := header{typ, unix.NLM_F_MULTI, d.h.seq, d.h.port}.message(objects[d.told])
		if len(b) > 0 && len(b)+len(m) > room {
			break
		}
		b = append(b, m...)
		d.told++
	}
	if d.told >= len(objects) {
		done := header{unix.NLMSG_DONE, unix.NLM_F_MULTI, d.h.seq, d.h.port}.message(u32(0))
		if len(b)+len(done) <= room {
			b = append(b, done...)
			s.dump = nil
		}
	}
	s.appendLocked(datagram{data: b})
}
