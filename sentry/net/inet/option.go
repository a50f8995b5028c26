package inet

import (
	"bytes"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"bulkhead/sentry/net/socket"
)

// opt names an option.
type opt struct{ level, name int }

// setting is one that a program set.
type setting struct {
	opt
	value []byte
}

// An intOption is an option whose value is an int.
type intOption struct {
	def    int
	lo, hi int  // values that are taken
	flag   bool // shown as 0 or 1
	usual  bool // -1 means def
	octet  bool // a single byte is taken, too
	only   int  // the type of socket that has it; 0: all
	// apply tells the library; nil: it is kept and shown, and nothing else.
	apply func(tcpip.Endpoint, int) tcpip.Error
}

// sockInt makes an apply for the library's options with numbers.
func sockInt(o tcpip.SockOptInt) func(tcpip.Endpoint, int) tcpip.Error {
	return func(ep tcpip.Endpoint, v int) tcpip.Error { return ep.SetSockOptInt(o, v) }
}

// sockFlag makes one for its flags.
func sockFlag(set func(*tcpip.SocketOptions, bool)) func(tcpip.Endpoint, int) tcpip.Error {
	return func(ep tcpip.Endpoint, v int) tcpip.Error {
		set(ep.SocketOptions(), v != 0)
		return nil
	}
}

func flag(set func(*tcpip.SocketOptions, bool)) intOption {
	return intOption{flag: true, apply: sockFlag(set)}
}

const forever = 1<<31 - 1

// ints are the options of IP, IPv6, TCP and UDP (net/ipv4/ip_sockglue.c,
// net/ipv6/ipv6_sockglue.c, net/ipv4/tcp.c).
var ints = map[opt]intOption{
	{unix.SOL_IP, unix.IP_TOS}:                  {hi: 255, octet: true, apply: sockInt(tcpip.IPv4TOSOption)},
	{unix.SOL_IP, unix.IP_TTL}:                  {def: 64, lo: 1, hi: 255, usual: true, octet: true, apply: sockInt(tcpip.IPv4TTLOption)},
	{unix.SOL_IP, unix.IP_HDRINCL}:              {flag: true, only: unix.SOCK_RAW, apply: sockFlag((*tcpip.SocketOptions).SetHeaderIncluded)},
	{unix.SOL_IP, unix.IP_RECVTTL}:              flag((*tcpip.SocketOptions).SetReceiveTTL),
	{unix.SOL_IP, unix.IP_RECVTOS}:              flag((*tcpip.SocketOptions).SetReceiveTOS),
	{unix.SOL_IP, unix.IP_PKTINFO}:              flag((*tcpip.SocketOptions).SetReceivePacketInfo),
	{unix.SOL_IP, unix.IP_RECVERR}:              flag((*tcpip.SocketOptions).SetIPv4RecvError),
	{unix.SOL_IP, unix.IP_RECVORIGDSTADDR}:      flag((*tcpip.SocketOptions).SetReceiveOriginalDstAddress),
	{unix.SOL_IP, unix.IP_MTU_DISCOVER}:         {def: unix.IP_PMTUDISC_WANT, hi: unix.IP_PMTUDISC_OMIT},
	{unix.SOL_IP, unix.IP_FREEBIND}:             {flag: true},
	{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT}: {flag: true},
	{unix.SOL_IP, unix.IP_MULTICAST_TTL}:        {def: 1, hi: 255, usual: true, octet: true, apply: sockInt(tcpip.MulticastTTLOption)},
	{unix.SOL_IP, unix.IP_MULTICAST_LOOP}:       {def: 1, flag: true, octet: true, apply: sockFlag((*tcpip.SocketOptions).SetMulticastLoop)},
	{unix.SOL_IP, unix.IP_MULTICAST_ALL}:        {def: 1, hi: 1},
	{unix.SOL_IP, unix.IP_MINTTL}:               {hi: 255},
	{unix.SOL_IP, unix.IP_RECVOPTS}:             {flag: true},
	{unix.SOL_IP, unix.IP_RETOPTS}:              {flag: true},
	{unix.SOL_IP, unix.IP_PASSSEC}:              {flag: true},
	{unix.SOL_IP, unix.IP_CHECKSUM}:             {flag: true},
	{unix.SOL_IP, unix.IP_NODEFRAG}:             {flag: true, only: unix.SOCK_RAW},
	{unix.SOL_IP, unix.IP_RECVFRAGSIZE}:         {flag: true},

	{unix.SOL_IPV6, unix.IPV6_V6ONLY}:           {flag: true, apply: sockFlag((*tcpip.SocketOptions).SetV6Only)},
	{unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS}:     {def: 64, hi: 255, usual: true, apply: sockInt(tcpip.IPv6HopLimitOption)},
	{unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS}:   {def: 1, hi: 255, usual: true, apply: sockInt(tcpip.MulticastTTLOption)},
	{unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP}:   {def: 1, hi: 1, apply: sockFlag((*tcpip.SocketOptions).SetMulticastLoop)},
	{unix.SOL_IPV6, unix.IPV6_MULTICAST_ALL}:    {def: 1, hi: 1},
	{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO}:      flag(receivePacketInfo6),
	{unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT}:     flag((*tcpip.SocketOptions).SetReceiveHopLimit),
	{unix.SOL_IPV6, unix.IPV6_RECVTCLASS}:       flag((*tcpip.SocketOptions).SetReceiveTClass),
	{unix.SOL_IPV6, unix.IPV6_TCLASS}:           {hi: 255, usual: true, apply: sockInt(tcpip.IPv6TrafficClassOption)},
	{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER}:     {def: unix.IPV6_PMTUDISC_WANT, hi: unix.IPV6_PMTUDISC_OMIT},
	{unix.SOL_IPV6, unix.IPV6_RECVERR}:          flag((*tcpip.SocketOptions).SetIPv6RecvError),
	{unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR}:  flag((*tcpip.SocketOptions).SetReceiveOriginalDstAddress),
	{unix.SOL_IPV6, unix.IPV6_FREEBIND}:         {flag: true},
	{unix.SOL_IPV6, unix.IPV6_DONTFRAG}:         {flag: true},
	{unix.SOL_IPV6, unix.IPV6_AUTOFLOWLABEL}:    {def: 1, flag: true},
	{unix.SOL_IPV6, unix.IPV6_MINHOPCOUNT}:      {hi: 255},
	{unix.SOL_IPV6, unix.IPV6_RECVRTHDR}:        {flag: true},
	{unix.SOL_IPV6, unix.IPV6_RECVHOPOPTS}:      {flag: true},
	{unix.SOL_IPV6, unix.IPV6_RECVDSTOPTS}:      {flag: true},
	{unix.SOL_IPV6, unix.IPV6_RECVPATHMTU}:      {flag: true},
	{unix.SOL_IPV6, unix.IPV6_RECVFRAGSIZE}:     {flag: true},
	{unix.SOL_IPV6, unix.IPV6_ADDR_PREFERENCES}: {def: 2, hi: 0xffff}, // IPV6_PREFER_SRC_PUBLIC

	{unix.SOL_TCP, unix.TCP_NODELAY}:              {flag: true, apply: sockFlag(func(o *tcpip.SocketOptions, v bool) { o.SetDelayOption(!v) })},
	{unix.SOL_TCP, unix.TCP_CORK}:                 {flag: true, apply: sockFlag((*tcpip.SocketOptions).SetCorkOption)},
	{unix.SOL_TCP, unix.TCP_QUICKACK}:             {def: 1, flag: true, apply: sockFlag((*tcpip.SocketOptions).SetQuickAck)},
	{unix.SOL_TCP, unix.TCP_KEEPIDLE}:             {def: 7200, lo: 1, hi: 32767, apply: keepIdle},
	{unix.SOL_TCP, unix.TCP_KEEPINTVL}:            {def: 75, lo: 1, hi: 32767, apply: keepInterval},
	{unix.SOL_TCP, unix.TCP_KEEPCNT}:              {def: 9, lo: 1, hi: 127, apply: sockInt(tcpip.KeepaliveCountOption)},
	{unix.SOL_TCP, unix.TCP_SYNCNT}:               {def: 6, lo: 1, hi: 127, apply: sockInt(tcpip.TCPSynCountOption)},
	{unix.SOL_TCP, unix.TCP_USER_TIMEOUT}:         {hi: forever, apply: userTimeout},
	{unix.SOL_TCP, unix.TCP_LINGER2}:              {def: 60, lo: -1 << 31, hi: forever},
	{unix.SOL_TCP, unix.TCP_DEFER_ACCEPT}:         {lo: -1 << 31, hi: forever},
	{unix.SOL_TCP, unix.TCP_WINDOW_CLAMP}:         {hi: forever},
	{unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT}:        {lo: -1 << 31, hi: forever},
	{unix.SOL_TCP, unix.TCP_FASTOPEN}:             {hi: forever},
	{unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT}:     {hi: 1},
	{unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE}:   {hi: 1},
	{unix.SOL_TCP, unix.TCP_INQ}:                  {hi: 1},
	{unix.SOL_TCP, unix.TCP_SAVE_SYN}:             {hi: 2},
	{unix.SOL_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS}: {hi: 1},
	{unix.SOL_TCP, unix.TCP_THIN_DUPACK}:          {hi: 1},

	{solUDPLite, udpliteSend}:    {hi: 0xffff},
	{solUDPLite, udpliteReceive}: {hi: 0xffff},

	{unix.SOL_UDP, unix.UDP_CORK}:         {flag: true},
	{unix.SOL_UDP, unix.UDP_NO_CHECK6_TX}: {flag: true},
	{unix.SOL_UDP, unix.UDP_NO_CHECK6_RX}: {flag: true},
}

// SOL_UDPLITE, UDPLITE_SEND_CSCOV and UDPLITE_RECV_CSCOV (include/uapi/linux/udp.h).
const (
	solUDPLite     = 136
	udpliteSend    = 10
	udpliteReceive = 11
)

func receivePacketInfo6(o *tcpip.SocketOptions, v bool) {
	o.SetIPv6ReceivePacketInfo(v)
	o.SetReceivePacketInfo(v) // of datagrams of AF_INET, shown mapped
}

func keepIdle(ep tcpip.Endpoint, v int) tcpip.Error {
	o := tcpip.KeepaliveIdleOption(time.Duration(v) * time.Second)
	return ep.SetSockOpt(&o)
}

func keepInterval(ep tcpip.Endpoint, v int) tcpip.Error {
	o := tcpip.KeepaliveIntervalOption(time.Duration(v) * time.Second)
	return ep.SetSockOpt(&o)
}

func userTimeout(ep tcpip.Endpoint, v int) tcpip.Error {
	o := tcpip.TCPUserTimeoutOption(time.Duration(v) * time.Millisecond)
	return ep.SetSockOpt(&o)
}

// generic are options of SOL_SOCKET that the library has to know.
var generic = map[int]func(tcpip.Endpoint, int) tcpip.Error{
	unix.SO_REUSEADDR: sockFlag((*tcpip.SocketOptions).SetReuseAddress),
	unix.SO_REUSEPORT: sockFlag((*tcpip.SocketOptions).SetReusePort),
	unix.SO_BROADCAST: sockFlag((*tcpip.SocketOptions).SetBroadcast),
	unix.SO_KEEPALIVE: sockFlag((*tcpip.SocketOptions).SetKeepAlive),
	unix.SO_NO_CHECK:  sockFlag((*tcpip.SocketOptions).SetNoChecksum),
}

// apply tells the library of an option again.
func (s *Socket) apply(o opt, value []byte) {
	v, err := socket.ParseInt(value)
	if err != nil {
		return
	}
	switch {
	case o == opt{unix.SOL_SOCKET, unix.SO_BINDTODEVICE}:
		s.ep.SocketOptions().SetBindToDevice(v)
	case o.level == unix.SOL_SOCKET:
		if f := generic[o.name]; f != nil {
			f(s.ep, int(v))
		}
	default:
		if i := ints[o]; i.apply != nil {
			i.apply(s.ep, int(v))
		}
	}
}

// remember keeps an option for the sockets and endpoints that follow.
func (s *Socket) rememberLocked(o opt, value []byte) {
	for i := range s.set {
		if s.set[i].opt == o {
			s.set[i].value = value
			return
		}
	}
	s.set = append(s.set, setting{o, value})
}

func (s *Socket) keep(o opt, v []byte) {
	if s.extra == nil {
		s.extra = map[opt][]byte{}
	}
	s.extra[o] = v
}

// flagLocked is an option that is kept, as a flag.
func (s *Socket) flagLocked(level, name int) bool {
	v, err := socket.ParseInt(s.extra[opt{level, name}])
	return err == nil && v != 0
}

// has says which levels of options a socket has.
func (s *Socket) has(level int) bool {
	switch level {
	case unix.SOL_SOCKET:
		return true
	case unix.SOL_IP:
		return s.family == unix.AF_INET || s.typ != unix.SOCK_RAW
	case unix.SOL_IPV6:
		return s.family == unix.AF_INET6
	case unix.SOL_TCP:
		return s.typ == unix.SOCK_STREAM
	case unix.SOL_UDP:
		return s.user() && s.protocol == unix.IPPROTO_UDP
	case solUDPLite:
		return s.protocol == unix.IPPROTO_UDPLITE
	case unix.SOL_RAW, unix.SOL_ICMPV6:
		return s.typ == unix.SOCK_RAW
	}
	return false
}

// SetOption is setsockopt(2).
func (s *Socket) SetOption(c socket.Caller, level, name int, value []byte) error {
	if !s.has(level) {
		return unix.ENOPROTOOPT
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := opt{level, name}
	if special := specials[o]; special.set != nil {
		return special.set(s, c, value)
	}
	if level == unix.SOL_SOCKET {
		if err := s.opts.Set(c, name, value); err != nil {
			return err
		}
		if generic[name] != nil {
			v, _ := socket.ParseInt(value)
			s.rememberLocked(o, socket.Bool(v != 0))
			s.apply(o, socket.Bool(v != 0))
		}
		s.resizeLocked()
		return nil
	}
	i, ok := ints[o]
	if !ok || i.only != 0 && i.only != s.typ {
		return unix.ENOPROTOOPT
	}
	v, err := i.parse(value)
	if err != nil {
		return err
	}
	if i.apply != nil {
		if err := i.apply(s.ep, v); err != nil {
			return errno(err)
		}
		s.rememberLocked(o, socket.Int(v))
	}
	s.keep(o, socket.Int(v))
	if o == (opt{unix.SOL_UDP, unix.UDP_CORK}) && v == 0 {
		return s.uncorkLocked()
	}
	return nil
}

// parse reads a value and checks it.
func (i intOption) parse(b []byte) (int, error) {
	var v int
	switch {
	case len(b) >= 4:
		v = int(int32(binary.LittleEndian.Uint32(b)))
	case i.octet && len(b) >= 1:
		v = int(b[0])
	default:
		return 0, unix.EINVAL
	}
	if i.flag {
		if v != 0 {
			v = 1
		}
		return v, nil
	}
	if i.usual && v == -1 {
		return i.def, nil
	}
	if i.lo == 0 && i.hi == 255 && i.octet && !i.usual { // IP_TOS takes its lower byte
		return v & 0xff, nil
	}
	if v < i.lo || v > i.hi {
		return 0, unix.EINVAL
	}
	return v, nil
}

// GetOption is getsockopt(2).
func (s *Socket) GetOption(c socket.Caller, level, name, size int) ([]byte, error) {
	if !s.has(level) {
		if s.family == unix.AF_INET {
			return nil, unix.EOPNOTSUPP // do_ip_getsockopt
		}
		return nil, unix.ENOPROTOOPT
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := opt{level, name}
	if special := specials[o]; special.get != nil {
		b, err := special.get(s, size)
		return socket.Cut(b, size), err
	}
	if level == unix.SOL_SOCKET {
		b, err := s.opts.Get(name)
		return socket.Cut(b, size), err
	}
	i, ok := ints[o]
	if !ok {
		return nil, unix.ENOPROTOOPT
	}
	b := socket.Int(i.def)
	if v := s.extra[o]; v != nil {
		b = v
	}
	if v := int32(binary.LittleEndian.Uint32(b)); level == unix.SOL_IP && size > 0 && size < 4 && v >= 0 && v <= 255 {
		return b[:1], nil // as other systems have it (do_ip_getsockopt)
	}
	return socket.Cut(b, size), nil
}

// special is an option with rules of its own. The socket is locked.
type special struct {
	get func(s *Socket, size int) ([]byte, error)
	set func(s *Socket, c socket.Caller, b []byte) error
}

func number(f func(*Socket) int) func(*Socket, int) ([]byte, error) {
	return func(s *Socket, _ int) ([]byte, error) { return socket.Int(f(s)), nil }
}

func refuse(e unix.Errno) func(*Socket, socket.Caller, []byte) error {
	return func(*Socket, socket.Caller, []byte) error { return e }
}

// specials, which a function makes since some look options up.
var specials map[opt]special

func init() {
	specials = map[opt]special{
		{unix.SOL_SOCKET, unix.SO_TYPE}:     {get: number(func(s *Socket) int { return s.typ })},
		{unix.SOL_SOCKET, unix.SO_DOMAIN}:   {get: number(func(s *Socket) int { return s.family })},
		{unix.SOL_SOCKET, unix.SO_PROTOCOL}: {get: number(func(s *Socket) int { return s.protocol })},
		{unix.SOL_SOCKET, unix.SO_ACCEPTCONN}: {get: func(s *Socket, _ int) ([]byte, error) {
			return socket.Bool(s.phase == listening), nil
		}},
		{unix.SOL_SOCKET, unix.SO_ERROR}:         {get: (*Socket).takeErrorOption},
		{unix.SOL_SOCKET, unix.SO_BINDTODEVICE}:  {get: (*Socket).device, set: (*Socket).setDevice},
		{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX}: {get: (*Socket).deviceIndex, set: (*Socket).setDeviceIndex},
		{unix.SOL_SOCKET, unix.SO_COOKIE}:        {get: (*Socket).cookie},
		{unix.SOL_SOCKET, unix.SO_PEERCRED}: {get: func(*Socket, int) ([]byte, error) {
			return append(socket.Int(0), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), nil
		}},
		{unix.SOL_SOCKET, unix.SO_PASSCRED}:        {set: refuse(unix.EOPNOTSUPP), get: func(*Socket, int) ([]byte, error) { return nil, unix.EOPNOTSUPP }},
		{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE}: {get: keptLong, set: setKeptLong(unix.SO_MAX_PACING_RATE)},
		{unix.SOL_SOCKET, unix.SO_DETACH_FILTER}:   {set: refuse(unix.ENOENT)},
		{unix.SOL_SOCKET, unix.SO_REUSEPORT}:       {set: (*Socket).setReusePort},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE}:       {set: (*Socket).setKeepalive},
		{unix.SOL_IP, unix.IP_MTU}:                 {get: mtu(65535), set: refuse(unix.ENOPROTOOPT)},
		{unix.SOL_IPV6, unix.IPV6_MTU}:             {get: mtu(65536), set: keepMTU},
		{unix.SOL_IP, unix.IP_OPTIONS}:             {get: func(*Socket, int) ([]byte, error) { return []byte{}, nil }, set: noOptions},
		{unix.SOL_IP, unix.IP_TRANSPARENT}:         {get: keptFlag(unix.SOL_IP, unix.IP_TRANSPARENT), set: setTransparent(unix.SOL_IP, unix.IP_TRANSPARENT)},
		{unix.SOL_IPV6, unix.IPV6_TRANSPARENT}:     {get: keptFlag(unix.SOL_IPV6, unix.IPV6_TRANSPARENT), set: setTransparent(unix.SOL_IPV6, unix.IPV6_TRANSPARENT)},
		{unix.SOL_IP, unix.IP_MULTICAST_IF}:        {get: (*Socket).multicastIf4, set: (*Socket).setMulticastIf4},
		{unix.SOL_IP, unix.IP_ADD_MEMBERSHIP}:      {set: member4(true)},
		{unix.SOL_IP, unix.IP_DROP_MEMBERSHIP}:     {set: member4(false)},
		{unix.SOL_IP, unix.MCAST_JOIN_GROUP}:       {set: memberAny(true)},
		{unix.SOL_IP, unix.MCAST_LEAVE_GROUP}:      {set: memberAny(false)},
		{unix.SOL_IPV6, unix.IPV6_MULTICAST_IF}:    {get: (*Socket).multicastIf6, set: (*Socket).setMulticastIf6},
		{unix.SOL_IPV6, unix.IPV6_JOIN_GROUP}:      {set: member6(true)},
		{unix.SOL_IPV6, unix.IPV6_LEAVE_GROUP}:     {set: member6(false)},
		{unix.SOL_IPV6, unix.MCAST_JOIN_GROUP}:     {set: memberAny(true)},
		{unix.SOL_IPV6, unix.MCAST_LEAVE_GROUP}:    {set: memberAny(false)},
		{unix.SOL_IPV6, unix.IPV6_V6ONLY}:          {set: (*Socket).setV6Only},
		{unix.SOL_IPV6, unix.IPV6_CHECKSUM}:        {set: (*Socket).setChecksum, get: (*Socket).checksum},
		{unix.SOL_TCP, unix.TCP_INFO}:              {get: (*Socket).info},
		{unix.SOL_TCP, unix.TCP_CONGESTION}:        {get: (*Socket).congestion, set: (*Socket).setCongestion},
		{unix.SOL_TCP, unix.TCP_MAXSEG}:            {get: (*Socket).maxSegment, set: (*Socket).setMaxSegment},
		{unix.SOL_TCP, unix.TCP_DEFER_ACCEPT}:      {set: (*Socket).setDefer},
		{unix.SOL_TCP, unix.TCP_ULP}:               {get: func(*Socket, int) ([]byte, error) { return []byte{}, nil }, set: refuse(unix.ENOENT)},
		{unix.SOL_TCP, unix.TCP_FASTOPEN}:          {set: (*Socket).setFastOpen},
		{unix.SOL_TCP, unix.TCP_REPAIR}:            {set: refuse(unix.EPERM)},
		{unix.SOL_RAW, unix.IPV6_CHECKSUM}:         {set: (*Socket).setRawChecksum, get: (*Socket).checksum},
		{unix.SOL_RAW, unix.ICMP_FILTER}:           {get: (*Socket).icmpFilter, set: (*Socket).setICMPFilter},
		{unix.SOL_ICMPV6, unix.ICMPV6_FILTER}:      {get: (*Socket).icmp6Filter, set: (*Socket).setICMP6Filter},
	}
}

func (s *Socket) takeErrorOption(int) ([]byte, error) {
	var err error
	if s.typ == unix.SOCK_STREAM {
		s.settleLocked()
		err = s.takeErrorLocked()
	} else {
		err = s.takeDatagramErrorLocked()
	}
	e, _ := err.(unix.Errno)
	return socket.Int(int(e)), nil
}

const deviceName = "lo"

func (s *Socket) device(size int) ([]byte, error) {
	index := s.ep.SocketOptions().GetBindToDevice()
	if index == 0 {
		return []byte{}, nil
	}
	if size < unix.IFNAMSIZ {
		return nil, unix.EINVAL
	}
	return []byte(s.net.nameOf(int(index)) + "\x00"), nil
}

func (s *Socket) setDevice(_ socket.Caller, b []byte) error {
	b = b[:min(len(b), unix.IFNAMSIZ-1)]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	if len(b) == 0 {
		return s.setDeviceIndex(nil, socket.Int(0))
	}
	for _, l := range s.net.Links() {
		if l.Name == string(b) {
			return s.setDeviceIndex(nil, socket.Int(l.Index))
		}
	}
	return unix.ENODEV
}

func (s *Socket) deviceIndex(int) ([]byte, error) {
	return socket.Int(int(s.ep.SocketOptions().GetBindToDevice())), nil
}

func (s *Socket) setDeviceIndex(_ socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	if err != nil {
		return err
	}
	if v < 0 {
		return unix.EINVAL
	}
	if v != 0 && !s.net.known(int(v)) {
		return unix.ENODEV
	}
	s.ep.SocketOptions().SetBindToDevice(v)
	s.rememberLocked(opt{unix.SOL_SOCKET, unix.SO_BINDTODEVICE}, socket.Int(int(v)))
	return nil
}

func (s *Socket) cookie(size int) ([]byte, error) {
	if size < 8 {
		return nil, unix.EINVAL
	}
	return binary.LittleEndian.AppendUint64(nil, s.inode.Ino()), nil
}

func keptLong(s *Socket, size int) ([]byte, error) {
	v := s.extra[opt{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE}]
	if v == nil {
		v = binary.LittleEndian.AppendUint64(nil, ^uint64(0))
	}
	if size < 8 {
		return v[:4], nil
	}
	return v, nil
}

func setKeptLong(name int) func(*Socket, socket.Caller, []byte) error {
	return func(s *Socket, _ socket.Caller, b []byte) error {
		if len(b) < 4 {
			return unix.EINVAL
		}
		v := uint64(binary.LittleEndian.Uint32(b))
		if len(b) >= 8 {
			v = binary.LittleEndian.Uint64(b)
		}
		s.keep(opt{unix.SOL_SOCKET, name}, binary.LittleEndian.AppendUint64(nil, v))
		return nil
	}
}

// setGeneric is an option that both the shared ones and the library have.
func (s *Socket) setGeneric(c socket.Caller, name int, b []byte) error {
	if err := s.opts.Set(c, name, b); err != nil {
		return err
	}
	v, _ := socket.ParseInt(b)
	o := opt{unix.SOL_SOCKET, name}
	s.rememberLocked(o, socket.Bool(v != 0))
	s.apply(o, socket.Bool(v != 0))
	return nil
}

// setReusePort is sk_reuseport: ping and raw sockets have no ports.
func (s *Socket) setReusePort(c socket.Caller, b []byte) error {
	if s.typ == unix.SOCK_RAW {
		return unix.EOPNOTSUPP
	}
	return s.setGeneric(c, unix.SO_REUSEPORT, b)
}

func (s *Socket) setKeepalive(c socket.Caller, b []byte) error {
	return s.setGeneric(c, unix.SO_KEEPALIVE, b)
}

func mtu(n int) func(*Socket, int) ([]byte, error) {
	return func(s *Socket, _ int) ([]byte, error) {
		if s.phase != connected && s.connName == nil {
			return nil, unix.ENOTCONN
		}
		return socket.Int(n), nil
	}
}

func keepMTU(_ *Socket, _ socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	if err == nil && v != 0 && v < 1280 {
		err = unix.EINVAL
	}
	return err
}

func noOptions(_ *Socket, _ socket.Caller, b []byte) error {
	if len(b) > 40 {
		return unix.EINVAL
	}
	if len(b) > 0 {
		return unix.EOPNOTSUPP
	}
	return nil
}

func keptFlag(level, name int) func(*Socket, int) ([]byte, error) {
	return func(s *Socket, _ int) ([]byte, error) { return socket.Bool(s.flagLocked(level, name)), nil }
}

func setTransparent(level, name int) func(*Socket, socket.Caller, []byte) error {
	return func(s *Socket, c socket.Caller, b []byte) error {
		v, err := socket.ParseInt(b)
		if err != nil {
			return err
		}
		if v != 0 && !socket.Capable(c, unix.CAP_NET_RAW) && !socket.Capable(c, unix.CAP_NET_ADMIN) {
			return unix.EPERM
		}
		s.keep(opt{level, name}, socket.Bool(v != 0))
		return nil
	}
}

// setV6Only works only before bind(2).
func (s *Socket) setV6Only(_ socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	if err != nil {
		return err
	}
	if s.bound != nil || s.phase != idle || s.connName != nil {
		return unix.EINVAL
	}
	o := opt{unix.SOL_IPV6, unix.IPV6_V6ONLY}
	s.rememberLocked(o, socket.Bool(v != 0))
	s.keep(o, socket.Bool(v != 0))
	s.apply(o, socket.Bool(v != 0))
	return nil
}

func (s *Socket) setChecksum(_ socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	switch {
	case err != nil:
		return err
	case s.typ != unix.SOCK_RAW:
		return unix.ENOPROTOOPT
	case s.protocol == unix.IPPROTO_ICMPV6 || v&1 != 0:
		return unix.EINVAL // ICMPv6's is the kernel's business
	}
	s.keep(opt{unix.SOL_IPV6, unix.IPV6_CHECKSUM}, socket.Int(int(v)))
	return nil
}

// setRawChecksum is the same where old programs, among them ping, ask for it. Of ICMPv6 it is granted: there
// is a sum in any case (do_rawv6_setsockopt).
func (s *Socket) setRawChecksum(c socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	switch {
	case err != nil:
		return err
	case s.family != unix.AF_INET6:
		return unix.ENOPROTOOPT
	case s.protocol != unix.IPPROTO_ICMPV6:
		return s.setChecksum(c, b)
	case v > 0 && v&1 != 0:
		return unix.EINVAL
	}
	s.keep(opt{unix.SOL_IPV6, unix.IPV6_CHECKSUM}, socket.Int(int(max(v, -1))))
	return nil
}

func (s *Socket) checksum(int) ([]byte, error) {
	if s.typ != unix.SOCK_RAW {
		return nil, unix.ENOPROTOOPT
	}
	if v := s.extra[opt{unix.SOL_IPV6, unix.IPV6_CHECKSUM}]; v != nil {
		return v, nil
	}
	if s.protocol == unix.IPPROTO_ICMPV6 {
		return socket.Int(2), nil
	}
	return socket.Int(-1), nil
}

// info is struct tcp_info as far as there is something to tell.
func (s *Socket) info(int) ([]byte, error) {
	s.settleLocked()
	b := make([]byte, 248)
	le := binary.LittleEndian
	b[0] = uint8(s.tcpStateLocked())
	var i tcpip.TCPInfoOption
	s.ep.GetSockOpt(&i)
	b[1] = uint8(i.CcState)
	const timestamps, sack, scale = 1, 2, 4
	b[5] = timestamps | sack | scale
	b[6] = 7<<4 | 7
	put := func(at int, v uint32) { le.PutUint32(b[at:], v) }
	mss := uint32(536)
	if s.phase == connected {
		mss = localSegment
	}
	put(8, uint32(max(i.RTO, time.Millisecond)/time.Microsecond))
	put(12, 40000) // ato
	put(16, mss)
	put(20, 536)
	if s.phase == listening {
		waiting := 0
		if s.ep.Readiness(1)&1 != 0 {
			waiting = 1
		}
		put(24, uint32(waiting))
		put(28, uint32(s.backlog))
	}
	put(60, 65535) // pmtu
	put(64, localSegment)
	put(68, uint32(i.RTT/time.Microsecond))
	put(72, uint32(i.RTTVar/time.Microsecond))
	put(76, min(i.SndSsthresh, 0x7fffffff))
	put(80, max(i.SndCwnd, 10))
	put(84, localSegment)
	put(88, 3) // reordering
	put(96, 65536)
	return b, nil
}

// localSegment is the maximum segment size of a loopback connection.
const localSegment = 32741

func (s *Socket) congestion(int) ([]byte, error) {
	name := s.extra[opt{unix.SOL_TCP, unix.TCP_CONGESTION}]
	if name == nil {
		name = []byte("cubic")
	}
	b := make([]byte, 16) // TCP_CA_NAME_MAX
	copy(b, name)
	return b, nil
}

func (s *Socket) setCongestion(_ socket.Caller, b []byte) error {
	if len(b) < 1 {
		return unix.EINVAL
	}
	b = b[:min(len(b), 15)]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	cc := tcpip.CongestionControlOption(b)
	if err := s.ep.SetSockOpt(&cc); err != nil {
		return errno(err)
	}
	s.keep(opt{unix.SOL_TCP, unix.TCP_CONGESTION}, bytes.Clone(b))
	return nil
}

func (s *Socket) maxSegment(int) ([]byte, error) {
	if s.phase == connected {
		return socket.Int(localSegment), nil
	}
	if v := s.extra[opt{unix.SOL_TCP, unix.TCP_MAXSEG}]; v != nil {
		return v, nil
	}
	return socket.Int(536), nil
}

func (s *Socket) setMaxSegment(_ socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	if err != nil {
		return err
	}
	if v != 0 && (v < 88 || v > 32767) {
		return unix.EINVAL
	}
	if v == 0 {
		v = 536
	} else {
		s.ep.SetSockOptInt(tcpip.MaxSegOption, int(v))
	}
	s.keep(opt{unix.SOL_TCP, unix.TCP_MAXSEG}, socket.Int(int(v)))
	return nil
}

// setDefer keeps TCP_DEFER_ACCEPT, in seconds that are sums of retransmissions
// (secs_to_retrans). A connection is accepted also before data came.
func (s *Socket) setDefer(_ socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	if err != nil {
		return err
	}
	sum := 0
	for step := 1; sum < int(v); {
		sum += step
		step = min(2*step, 120)
	}
	s.keep(opt{unix.SOL_TCP, unix.TCP_DEFER_ACCEPT}, socket.Int(sum))
	return nil
}

// setFastOpen keeps the length of a queue that stays empty: no client here has a
// cookie, so that every connection shakes hands as usual.
func (s *Socket) setFastOpen(_ socket.Caller, b []byte) error {
	v, err := socket.ParseInt(b)
	if err != nil {
		return err
	}
	if v < 0 || s.phase != idle && s.phase != listening {
		return unix.EINVAL
	}
	s.keep(opt{unix.SOL_TCP, unix.TCP_FASTOPEN}, socket.Int(int(v)))
	return nil
}

// tcpStateLocked is the state that /proc/net/tcp and TCP_INFO show.
func (s *Socket) tcpStateLocked() int {
	const closed = int(tcp.StateClose)
	switch s.phase {
	case listening:
		return int(tcp.StateListen)
	case connecting:
		return int(tcp.StateSynSent)
	case connected:
		st := s.stateLocked()
		if s.tornLocked() || st > tcp.StateClosing {
			return closed
		}
		if s.link != nil {
			return linkState(s.inflow().state().fin, s.outflow().state().fin, s.outflow().state().gone)
		}
		return int(st)
	}
	return closed
}

// linkState is the state of a connection whose ends and data the link knows.
func linkState(peerEnded, ended, peerGone bool) int {
	switch {
	case ended && peerEnded:
		return int(tcp.StateClose) // TCP_TIME_WAIT is nobody's socket
	case ended:
		return int(tcp.StateFinWait2)
	case peerEnded:
		return int(tcp.StateCloseWait)
	}
	return int(tcp.StateEstablished)
}
