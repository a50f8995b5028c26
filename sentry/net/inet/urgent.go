package inet

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/socket"
)

// urgent is the byte that was sent last with MSG_OOB. It stands among the others, and
// an ordinary read passes it by, if SO_OOBINLINE does not say otherwise (man 7 tcp;
// net/ipv4/tcp.c, tcp_recv_urg). A connection within the stack has it: the library,
// which carries the others, knows nothing of urgent pointers.
type urgent struct {
	there bool // and no read has come past it (tcp_sock.urg_data)
	taken bool // by MSG_OOB (TCP_URG_READ)
	value byte
	at    int // how many bytes wait before it
}

// pass is what reading n bytes means for it.
func (u *urgent) pass(n int) {
	if u.at -= n; u.at < 0 {
		*u = urgent{}
	}
}

func (f *flow) inlineLocked() bool { return f.options != nil && f.options.Inline() }

// markLocked makes the last of n bytes, which have just come, the urgent one. The one
// before it becomes an ordinary byte, but is lost if it is next: it was the mark
// (net/ipv4/tcp_input.c, tcp_check_urg).
func (f *flow) markLocked(n int) {
	if f.urgent.there && f.urgent.at == 0 && f.size > n && !f.inlineLocked() {
		f.dropLocked(1)
	}
	last := f.chunks[len(f.chunks)-1]
	f.urgent = urgent{there: true, value: last[len(last)-1], at: f.size - 1}
}

// takeUrgent takes the urgent byte, or with peek looks at it; false if there is none.
func (f *flow) takeUrgent(peek bool) (byte, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := &f.urgent
	if !u.there || u.taken || f.inlineLocked() {
		return 0, false
	}
	u.taken = !peek
	return u.value, true
}

// waiting is SIOCINQ: no further than the urgent byte (include/net/tcp.h, tcp_inq).
func (st flowState) waiting() int {
	if st.urgent.there && !st.inline {
		return st.urgent.at
	}
	return st.size
}

// atMark is SIOCATMARK.
func (st flowState) atMark() bool { return st.urgent.there && st.urgent.at == 0 }

// receiveUrgent is tcp_recv_urg. It never waits.
func (s *Socket) receiveUrgent(m *socket.Message, peek bool) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	if s.phase == listening {
		return 0, unix.ENOTCONN
	}
	if s.link == nil {
		return 0, unix.EINVAL
	}
	in := s.inflow()
	if s.shut&resetHeard != 0 && !in.state().fin {
		return 0, unix.ENOTCONN
	}
	b, ok := in.takeUrgent(peek)
	if !ok {
		return 0, unix.EINVAL
	}
	m.Flags |= unix.MSG_OOB
	if m.Data.Len() == 0 {
		m.Flags |= unix.MSG_TRUNC
		return 0, nil
	}
	if m.Data.CopyOut([]byte{b}) == 0 {
		return 0, unix.EFAULT
	}
	return 1, nil
}

// TellsUrgent implements vfs.Urgent.
func (s *Socket) TellsUrgent() {}
