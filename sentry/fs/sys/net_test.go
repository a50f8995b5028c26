package sys

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loopback is this host's.
func loopback(t *testing.T) Interface {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	i := Interface{Index: lo.Index, Name: lo.Name, Type: unix.ARPHRD_LOOPBACK, Flags: unix.IFF_LOOPBACK, MTU: uint32(lo.MTU), Queue: 1000,
		Address: make([]byte, 6), Broadcast: make([]byte, 6)}
	if lo.Flags&net.FlagUp != 0 {
		i.Flags |= unix.IFF_UP
	}
	return i
}

// TestInterfaces: every file of the host's loopback device reads here as it does there, and
// fails as it does.
func TestInterfaces(t *testing.T) {
	lo := loopback(t)
	there := []Interface{lo}
	s := start(New(Config{Cgroup: newKernel(t, 1).Cgroup(), Interfaces: func() []Interface { return there }}))
	for _, dir := range []string{"class/net/lo", "class/net/lo/statistics"} {
		files, err := os.ReadDir("/sys/" + dir)
		if err != nil {
			t.Skipf("needs the host's /sys: %v", err)
		}
		for _, f := range files {
			if !f.Type().IsRegular() {
				continue
			}
			name := filepath.Join(dir, f.Name())
			text, err := os.ReadFile("/sys/" + name)
			want, wantErr := string(text), errnoIn(err)
			got, gotErr := read(s, name)
			if strings.HasSuffix(dir, "statistics") {
				want, got = "", strings.Trim(got, "0\n")
			}
			if got != want || errnoIn(gotErr) != wantErr {
				t.Errorf("%s: %q %v, want %q %v", name, got, gotErr, want, err)
			}
		}
	}
	veth := Interface{Index: 7, Name: "eth0", Type: unix.ARPHRD_ETHER, Flags: unix.IFF_BROADCAST | unix.IFF_MULTICAST, MTU: 1400,
		Address: []byte{2, 0, 0, 0, 0, 0xab}, State: 2, TxBytes: 5}
	there = append(there, veth)
	for name, want := range map[string]string{"address": "02:00:00:00:00:ab\n", "operstate": "down\n", "flags": "0x1002\n", "statistics/tx_bytes": "5\n", "carrier": "EINVAL"} {
		if got, err := read(s, "class/net/eth0/"+name); got != want && unix.ErrnoName(errnoIn(err)) != want {
			t.Errorf("%s: %q %v, want %s", name, got, err, want)
		}
	}
	there = there[:1]
	if _, err := read(s, "class/net/eth0/mtu"); err != unix.ENOENT {
		t.Errorf("an interface that has gone: %v", err)
	}
}

func errnoIn(err error) (e unix.Errno) {
	errors.As(err, &e)
	return e
}
