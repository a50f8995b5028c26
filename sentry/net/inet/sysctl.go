package inet

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Sysctls are the values of /proc/sys/net that change what a socket does.
type Sysctls struct {
	unprivilegedPort atomic.Uint32 // ip_unprivileged_port_start
	pingFirst        atomic.Uint32 // ping_group_range
	pingLast         atomic.Uint32
	firstPort        atomic.Uint32 // ip_local_port_range
	lastPort         atomic.Uint32
	v6Only           atomic.Uint32 // bindv6only
}

func (s *Sysctls) init() {
	s.unprivilegedPort.Store(1024)
	s.pingFirst.Store(1) // to 0: nobody
	s.firstPort.Store(32768)
	s.lastPort.Store(60999)
}

// fields are a sysctl's numbers, and how they are checked.
func (n *Stack) fields(path string) (list []*atomic.Uint32, ok func(v []uint32) bool) {
	s := &n.sysctls
	switch path {
	case "net/ipv4/ip_unprivileged_port_start":
		return []*atomic.Uint32{&s.unprivilegedPort}, func(v []uint32) bool { return v[0] <= 65535 }
	case "net/ipv4/ping_group_range":
		// A range that is upside down stands for nobody.
		return []*atomic.Uint32{&s.pingFirst, &s.pingLast}, func([]uint32) bool { return true }
	case "net/ipv4/ip_local_port_range":
		return []*atomic.Uint32{&s.firstPort, &s.lastPort}, func(v []uint32) bool { return v[0] > 0 && v[0] <= v[1] && v[1] <= 65535 }
	case "net/ipv6/bindv6only":
		return []*atomic.Uint32{&s.v6Only}, func(v []uint32) bool { return v[0] <= 1 }
	}
	return nil, nil
}

// Sysctl is the value of a file of /proc/sys; false if sockets do not go by it.
func (n *Stack) Sysctl(path string) (string, bool) {
	list, _ := n.fields(path)
	if list == nil {
		return "", false
	}
	var text []string
	for _, f := range list {
		text = append(text, fmt.Sprint(f.Load()))
	}
	return strings.Join(text, "\t"), true
}

// SetSysctl changes it.
func (n *Stack) SetSysctl(path, value string) error {
	list, ok := n.fields(path)
	words := strings.Fields(value)
	if len(words) == 0 || len(words) > len(list) {
		return unix.EINVAL
	}
	v := make([]uint32, len(list))
	for i, f := range list {
		v[i] = f.Load()
		if i >= len(words) {
			continue
		}
		x, err := strconv.ParseUint(words[i], 10, 32)
		if err != nil {
			return unix.EINVAL
		}
		v[i] = uint32(x)
	}
	if !ok(v) {
		return unix.EINVAL
	}
	for i, f := range list {
		f.Store(v[i])
	}
	if n.Started() {
		n.lib.SetPortRange(uint16(n.sysctls.firstPort.Load()), uint16(n.sysctls.lastPort.Load()))
	}
	return nil
}
