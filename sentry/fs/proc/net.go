package proc

import (
	"fmt"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/vfs"
)

// netFiles are a network of the loopback device alone, in the formats of
// net/core/net-procfs.c, net/ipv4/{tcp,udp,route,…}. Tables without rows have
// their heads. What Config.NetFile has goes before.
var netFiles = []struct{ name, text string }{
	{"dev", "Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n" +
		"    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n"},
	{"tcp", fmt.Sprintf("%-149s\n", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode")},
	{"tcp6", "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"},
	{"udp", fmt.Sprintf("%-127s\n", "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops")},
	{"udp6", "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"},
	{"raw", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"},
	{"route", fmt.Sprintf("%-127s\n", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT")},
	{"raw6", "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"},
	{"udplite", ""},
	{"udplite6", ""},
	{"icmp", ""},
	{"icmp6", ""},
	{"sockstat6", ""},
	{"arp", "IP address       HW type     Flags       HW address            Mask     Device\n"},
	{"if_inet6", ""},
	{"ipv6_route", ""},
	{"igmp", "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"},
	{"igmp6", ""},
	{"dev_mcast", ""},
	{"netlink", "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"},
	{"packet", "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"},
	{"protocols", "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh gp em\n" +
		"PINGv6    1344      0      -1   NI       0   yes  kernel      y  y  y  n  n  y  n  n  y  y  y  y  y  y  n  y  y  n\n" +
		"RAWv6     1344      0      -1   NI       0   yes  kernel      y  y  y  n  y  y  y  n  y  y  y  y  y  y  y  y  n  n\n" +
		"UDPv6     1472      0       0   NI       0   yes  kernel      y  y  y  n  y  y  y  n  y  y  y  y  n  n  y  y  y  n\n" +
		"TCPv6     2432      0       0   no     192   yes  kernel      y  y  y  y  y  y  y  y  y  y  y  y  n  y  y  y  y  y\n" +
		"UNIX-STREAM 1152      0      -1   NI       0   yes  kernel      y  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n\n" +
		"UNIX      1152      0      -1   NI       0   yes  kernel      y  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n\n" +
		"PING      1016      0      -1   NI       0   yes  kernel      y  y  y  n  n  y  n  n  y  y  y  y  y  y  n  y  y  n\n" +
		"RAW       1152      0      -1   NI       0   yes  kernel      y  y  y  n  y  y  y  n  y  y  y  y  y  y  y  y  n  n\n" +
		"UDP       1344      0       0   NI       0   yes  kernel      y  y  y  n  y  y  y  n  y  y  y  y  n  n  y  y  y  n\n" +
		"TCP       2304      0       0   no     192   yes  kernel      y  y  y  y  y  y  y  y  y  y  y  y  n  y  y  y  y  y\n" +
		"NETLINK   1096      0      -1   NI       0   no   kernel      n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n\n"},
	{"psched", "000003e8 00000040 000f4240 3b9aca00\n"},
	{"ptype", "Type Device      Function\n"},
	{"sockstat", "sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n"},
	{"snmp", ""},
	{"snmp6", ""},
	{"netstat", ""},
	{"wireless", "Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE\n" +
		" face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22\n"},
}

// newNet makes the net directory that all processes share: they have one
// network.
func (fs *FileSystem) newNet() *kernfs.Dir {
	d := fs.NewDir(0o555)
	for _, f := range netFiles {
		d.Add(f.name, fs.NewFile(0o444, func(ctx vfs.Context) ([]byte, error) {
			if fs.NetFile != nil {
				if b, ok := fs.NetFile(ctx, f.name); ok {
					return b, nil
				}
			}
			return []byte(f.text), nil
		}))
	}
	return d.Add("unix", fs.NewFile(0o444, fs.netUnix))
}

func (fs *FileSystem) netUnix(vfs.Context) ([]byte, error) {
	b := []byte("Num       RefCount Protocol Flags    Type St Inode Path\n")
	if fs.NetUnix != nil {
		b = append(b, fs.NetUnix()...)
	}
	return b, nil
}
