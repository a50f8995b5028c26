package cli

import (
	"testing"
	"time"

	"bulkhead/guestinit/config"
	words "bulkhead/vmm/config"
)

// TestGuestConfig: guestinit is told the time, its shares, and the address of the interface with
// the MAC that the device will have.
func TestGuestConfig(t *testing.T) {
	m := words.Default()
	m.Command = []string{"ls", "-l"}
	m.Shares = []words.Share{{Tag: "src", Dir: "/src", ReadOnly: true, At: "/mnt/src"}}
	net, err := words.ParseNet("tap=a,ip=10.0.0.2/24,gw=10.0.0.1,dns=10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	m.Nets = []words.Net{net, {TAP: "b"}}
	b, err := (&run{words: m}).guestConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if since := time.Since(c.Time); since < 0 || since > time.Minute {
		t.Errorf("the time is off by %v", since)
	}
	if len(c.Mounts) != 1 || c.Mounts[0].Target != "/mnt/src" || len(c.Args) != 2 {
		t.Errorf("%s", b)
	}
	if len(c.Network.Interfaces) != 1 || len(c.Network.Nameservers) != 1 {
		t.Fatalf("%s", b)
	}
	i := c.Network.Interfaces[0]
	if i.MAC != m.Nets[0].MAC.String() || i.MAC == "" || i.Addresses[0].String() != "10.0.0.2/24" || i.Routes[0].Gateway.String() != "10.0.0.1" {
		t.Errorf("%+v; the device has %v", i, m.Nets[0].MAC)
	}
}
