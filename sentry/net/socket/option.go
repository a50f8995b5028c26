package socket

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes of buffers (net/core/sock.c; net.core.{r,w}mem_{default,max}).
const (
	BufferDefault = 212992
	BufferMax     = 4194304
	sendMin       = 4608 // SOCK_MIN_SNDBUF
	receiveMin    = 2304 // SOCK_MIN_RCVBUF
)

// Options are the options of SOL_SOCKET that mean the same in every family.
type Options struct {
	mu           sync.Mutex
	ints         map[int]int32
	send, recv   int // bytes; what getsockopt shows, twice what was set
	sendTimeout  unix.Timeval
	recvTimeout  unix.Timeval
	linger       unix.Linger
	stamp        Stamp
	locked       int // SOCK_SNDBUF_LOCK, SOCK_RCVBUF_LOCK: sizes that the program chose
	passCred     bool
	passSecurity bool
}

// Stamp is how a socket tells when a datagram came.
type Stamp uint8

const (
	StampNone Stamp = iota
	StampMicro
	StampMicroNew
	StampNano
	StampNanoNew
)

var stamps = map[int]Stamp{unix.SO_TIMESTAMP_OLD: StampMicro, unix.SO_TIMESTAMP_NEW: StampMicroNew,
	unix.SO_TIMESTAMPNS_OLD: StampNano, unix.SO_TIMESTAMPNS_NEW: StampNanoNew}

const (
	sendLock    = 1 // SOCK_SNDBUF_LOCK
	receiveLock = 2
)

// NewOptions are those of a new socket.
func NewOptions() *Options { return NewOptionsOf(BufferDefault, BufferDefault) }

// NewOptionsOf are those of a socket with buffers of other sizes.
func NewOptionsOf(send, receive int) *Options {
	return &Options{ints: map[int]int32{unix.SO_RCVLOWAT: 1}, send: send, recv: receive}
}

// Grow enlarges buffers that the program did not choose the size of.
func (o *Options) Grow(send, receive int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.locked&sendLock == 0 {
		o.send = max(o.send, send)
	}
	if o.locked&receiveLock == 0 {
		o.recv = max(o.recv, receive)
	}
}

// Inherit makes o what a connection has of its listener.
func (o *Options) Inherit(from *Options) {
	from.mu.Lock()
	ints := make(map[int]int32, len(from.ints))
	for k, v := range from.ints {
		ints[k] = v
	}
	send, recv, locked, linger, stamp := from.send, from.recv, from.locked, from.linger, from.stamp
	rt, st := from.recvTimeout, from.sendTimeout
	from.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ints, o.send, o.recv, o.locked, o.linger, o.stamp, o.recvTimeout, o.sendTimeout = ints, send, recv, locked, linger, stamp, rt, st
}

// Linger is SO_LINGER; LowWater SO_RCVLOWAT; Stamp SO_TIMESTAMP and its like; Drops
// SO_RXQ_OVFL.
func (o *Options) Linger() (on bool, seconds int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.linger.Onoff != 0, int(o.linger.Linger)
}

// Inline is SO_OOBINLINE.
func (o *Options) Inline() bool { return o.int(unix.SO_OOBINLINE) != 0 }

func (o *Options) LowWater() int { return int(o.int(unix.SO_RCVLOWAT)) }
func (o *Options) Drops() bool   { return o.int(unix.SO_RXQ_OVFL) != 0 }
func (o *Options) Stamp() Stamp  { o.mu.Lock(); defer o.mu.Unlock(); return o.stamp }

func (o *Options) int(name int) int32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ints[name]
}

// plain are options that are kept and shown, 0 or 1 if flag. What they ask for
// (routing, timestamps, marks) no family here does yet, or it is a hint.
var plain = map[int]struct{ flag bool }{
	unix.SO_DEBUG: {true}, unix.SO_REUSEADDR: {true}, unix.SO_REUSEPORT: {true}, unix.SO_KEEPALIVE: {true},
	unix.SO_DONTROUTE: {true}, unix.SO_BROADCAST: {true}, unix.SO_OOBINLINE: {true}, unix.SO_NO_CHECK: {true},
	unix.SO_PRIORITY: {}, unix.SO_RCVLOWAT: {}, unix.SO_BUSY_POLL: {}, unix.SO_ZEROCOPY: {true},
	unix.SO_SELECT_ERR_QUEUE: {true}, unix.SO_RXQ_OVFL: {true}, unix.SO_WIFI_STATUS: {true}, unix.SO_NOFCS: {true},
	unix.SO_INCOMING_CPU: {},
}

// Send and Receive are the sizes of the buffers; PassCred is SO_PASSCRED.
func (o *Options) Send() int      { o.mu.Lock(); defer o.mu.Unlock(); return o.send }
func (o *Options) Receive() int   { o.mu.Lock(); defer o.mu.Unlock(); return o.recv }
func (o *Options) PassCred() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.passCred }

// InheritPass copies what a connection has of its listener: which control
// messages it wants (Linux 6.16).
func (o *Options) InheritPass(from *Options) {
	from.mu.Lock()
	cred, security := from.passCred, from.passSecurity
	from.mu.Unlock()
	o.mu.Lock()
	o.passCred, o.passSecurity = cred, security
	o.mu.Unlock()
}

// Timeouts are SO_RCVTIMEO and SO_SNDTIMEO.
func (o *Options) Timeouts() (receive, send time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Duration(o.recvTimeout.Nano()), time.Duration(o.sendTimeout.Nano())
}

// Get is getsockopt(2) of level SOL_SOCKET; ENOPROTOOPT for what only the family
// can tell. It returns the whole value.
func (o *Options) Get(name int) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := plain[name]; ok {
		return Int(int(o.ints[name])), nil
	}
	le := binary.LittleEndian
	switch name {
	case unix.SO_SNDBUF:
		return Int(o.send), nil
	case unix.SO_RCVBUF:
		return Int(o.recv), nil
	case unix.SO_LINGER:
		return append(Int(int(o.linger.Onoff)), Int(int(o.linger.Linger))...), nil
	case unix.SO_PASSCRED:
		return Bool(o.passCred), nil
	case unix.SO_PASSSEC:
		return Bool(o.passSecurity), nil
	case unix.SO_RCVTIMEO_OLD, unix.SO_RCVTIMEO_NEW:
		return le.AppendUint64(le.AppendUint64(nil, uint64(o.recvTimeout.Sec)), uint64(o.recvTimeout.Usec)), nil
	case unix.SO_SNDTIMEO_OLD, unix.SO_SNDTIMEO_NEW:
		return le.AppendUint64(le.AppendUint64(nil, uint64(o.sendTimeout.Sec)), uint64(o.sendTimeout.Usec)), nil
	case unix.SO_SNDLOWAT:
		return Int(1), nil
	case unix.SO_TIMESTAMP_OLD, unix.SO_TIMESTAMPNS_OLD, unix.SO_TIMESTAMP_NEW, unix.SO_TIMESTAMPNS_NEW:
		return Bool(o.stamp == stamps[name]), nil
	case unix.SO_MARK:
		return Int(int(o.ints[name])), nil
	case unix.SO_LOCK_FILTER:
		return Int(0), nil // nor can one be attached
	}
	return nil, unix.ENOPROTOOPT
}

// Set is setsockopt(2) of level SOL_SOCKET.
func (o *Options) Set(c Caller, name int, b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch name {
	case unix.SO_LINGER:
		if len(b) < 8 {
			return unix.EINVAL
		}
		o.linger = unix.Linger{Onoff: int32(min(binary.LittleEndian.Uint32(b), 1)), Linger: int32(binary.LittleEndian.Uint32(b[4:]))}
		return nil
	case unix.SO_RCVTIMEO_OLD, unix.SO_RCVTIMEO_NEW:
		return setTimeout(&o.recvTimeout, b)
	case unix.SO_SNDTIMEO_OLD, unix.SO_SNDTIMEO_NEW:
		return setTimeout(&o.sendTimeout, b)
	}
	v, err := ParseInt(b)
	if err != nil {
		return err
	}
	if s, ok := stamps[name]; ok {
		o.stamp = StampNone
		if v != 0 {
			o.stamp = s
		}
		return nil
	}
	if p, ok := plain[name]; ok {
		if p.flag && v != 0 {
			v = 1
		}
		if name == unix.SO_RCVLOWAT {
			if v < 0 {
				v = 1<<31 - 1
			}
			v = max(v, 1)
		}
		if name == unix.SO_PRIORITY && (v < 0 || v > 6) && !Capable(c, unix.CAP_NET_ADMIN) {
			return unix.EPERM
		}
		o.ints[name] = v
		return nil
	}
	return o.set(c, name, v)
}

func (o *Options) set(c Caller, name int, v int32) error {
	admin := Capable(c, unix.CAP_NET_ADMIN)
	switch name {
	case unix.SO_SNDBUF, unix.SO_SNDBUFFORCE:
		if name == unix.SO_SNDBUFFORCE && !admin {
			return unix.EPERM
		}
		o.send = max(2*int(limited(v, name == unix.SO_SNDBUFFORCE)), sendMin)
		o.locked |= sendLock
	case unix.SO_RCVBUF, unix.SO_RCVBUFFORCE:
		if name == unix.SO_RCVBUFFORCE && !admin {
			return unix.EPERM
		}
		o.recv = max(2*int(limited(v, name == unix.SO_RCVBUFFORCE)), receiveMin)
		o.locked |= receiveLock
	case unix.SO_PASSCRED:
		o.passCred = v != 0
	case unix.SO_PASSSEC:
		o.passSecurity = v != 0
	case unix.SO_MARK:
		if !admin && !Capable(c, unix.CAP_NET_RAW) {
			return unix.EPERM
		}
		o.ints[name] = v
	case unix.SO_TYPE, unix.SO_PROTOCOL, unix.SO_DOMAIN, unix.SO_ERROR, unix.SO_ACCEPTCONN, unix.SO_SNDLOWAT:
		return unix.ENOPROTOOPT
	default:
		return unix.ENOPROTOOPT
	}
	return nil
}

func limited(v int32, force bool) int32 {
	if !force && uint32(v) > BufferMax {
		return BufferMax
	}
	return min(max(v, 0), 1<<30-1)
}

func setTimeout(to *unix.Timeval, b []byte) error {
	if len(b) < 16 {
		return unix.EINVAL
	}
	t := unix.Timeval{Sec: int64(binary.LittleEndian.Uint64(b)), Usec: int64(binary.LittleEndian.Uint64(b[8:]))}
	if t.Usec < 0 || t.Usec >= 1e6 {
		return unix.EDOM
	}
	if t.Sec < 0 || t.Sec >= 1<<31 {
		t = unix.Timeval{} // a negative one does not wait at all; sock_set_timeout has it as 0
	}
	*to = t
	return nil
}

// Int and Bool are values of options.
func Int(v int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }

func Bool(v bool) []byte {
	if v {
		return Int(1)
	}
	return Int(0)
}

// ParseInt reads an option's int.
func ParseInt(b []byte) (int32, error) {
	if len(b) < 4 {
		return 0, unix.EINVAL
	}
	return int32(binary.LittleEndian.Uint32(b)), nil
}

// Cut is what a caller with room for size bytes gets.
func Cut(b []byte, size int) []byte { return b[:min(len(b), max(size, 0))] }
