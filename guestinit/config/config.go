// Package config is what a host tells the init of its guest, and the ports by
// which the init answers. Both ends read it; it knows neither.
//
// A guest is told in two ways: by the file at Path in its initramfs, and by
// words of the kernel's command line (Words), which win.
package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"strings"
	"time"
)

// Path of the file in the guest.
const Path = "/bulkhead.json"

// Ports of the machine that the init writes a byte to. What is written there is
// the guest's word and no more: any root in the guest can write the same.
const (
	// ExitPort takes the command's exit code, 128 and the signal's number
	// where one ended it. All is synced and unmounted by then, so that the
	// machine may end there; reboot(LINUX_REBOOT_CMD_POWER_OFF) follows.
	ExitPort = 0x5F0
	// ReadyPort takes a Stage when it is reached.
	ReadyPort = 0x5F1
)

// Exit codes that are not the command's own, as in a shell and in docker-run(1).
const (
	ExitInit    = 125 // the init itself failed; its reason is on the console
	ExitNoExec  = 126 // the command exists and cannot be executed
	ExitMissing = 127 // there is no such command
)

// Stage is how far the guest's start has come.
type Stage byte

const (
	Started  Stage = 1 // the init's first instruction of ours
	Prepared Stage = 2 // all mounted and configured; the command is next
	Running  Stage = 3 // the command has been executed
)

func (s Stage) String() string {
	names := map[Stage]string{Started: "started", Prepared: "prepared", Running: "running"}
	if name, ok := names[s]; ok {
		return name
	}
	return fmt.Sprintf("stage %d", byte(s))
}

// Config of a guest. The zero value is a guest with the kernel's own file
// systems, a loopback device, and a shell on the console.
type Config struct {
	Hostname string `json:"hostname,omitempty"`

	// Agent makes the guest serve the agent protocol to its host in place of a
	// command: it runs containers.
	Agent bool `json:"agent,omitempty"`

	// Args is the command; none means a shell: /bin/sh, or the built-in one.
	Args []string `json:"args,omitempty"`
	// Env is added to a PATH, HOME and TERM.
	Env    []string `json:"env,omitempty"`
	Cwd    string   `json:"cwd,omitempty"`
	UID    uint32   `json:"uid,omitempty"`
	GID    uint32   `json:"gid,omitempty"`
	Groups []uint32 `json:"groups,omitempty"`

	// Console is the terminal of the command, "hvc0" or "ttyS0"; "" means
	// the kernel's.
	Console string `json:"console,omitempty"`
	// Rows and Columns are the size of the host's terminal, for a serial
	// port that cannot tell; 0 leaves it.
	Rows    uint16 `json:"rows,omitempty"`
	Columns uint16 `json:"columns,omitempty"`

	// Modules are loaded after those of ModuleList, in this order.
	Modules []string `json:"modules,omitempty"`
	Mounts  []Mount  `json:"mounts,omitempty"`
	// Root is the directory that becomes / once all is mounted, "" for the initramfs.
	Root    string  `json:"root,omitempty"`
	Network Network `json:"network,omitzero"`

	// Time is the host's clock at the guest's start. It is set where the
	// guest's own is off by more than a second; none leaves that to the
	// kernel and the RTC.
	Time time.Time `json:"time,omitzero"`

	// Debug makes the init tell its steps and their times.
	Debug bool `json:"debug,omitempty"`
}

// ModuleList names the modules of a kernel that needs some, a path a line, in
// the order of loading. An initramfs without the file has a kernel without modules.
const ModuleList = "/lib/modules/modules.list"

// Mount is a file system to mount, as in fstab(5).
type Mount struct {
	// Source is a virtio-fs tag, a device ("/dev/vda"), a disk by its serial
	// ("disk:data"), or what Type wants.
	Source string `json:"source"`
	Target string `json:"target"`
	Type   string `json:"type"`
	// Options are mount(8)'s: "ro", "noexec" …, and the file system's own.
	Options []string `json:"options,omitempty"`
}

// Network of a guest. The loopback device is always up.
type Network struct {
	Interfaces  []Interface           `json:"interfaces,omitempty"`
	Nameservers []netip.Addr          `json:"nameservers,omitempty"`
	Search      []string              `json:"search,omitempty"`
	Hosts       map[string]netip.Addr `json:"hosts,omitempty"`
}

// Interface is one network device, found by MAC, or by Name where that is "".
type Interface struct {
	Name      string         `json:"name,omitempty"`
	MAC       string         `json:"mac,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Routes    []Route        `json:"routes,omitempty"`
	Unrouted  []netip.Prefix `json:"unrouted,omitempty"` // addresses that bring no route to their network
	MTU       int            `json:"mtu,omitempty"`
}

// Route by an interface; without a Destination the default one.
type Route struct {
	Destination netip.Prefix `json:"destination,omitzero"`
	Gateway     netip.Addr   `json:"gateway,omitzero"`
}

// Parse reads the file at Path. An unknown field is an error: host and guest
// are built together, so it is a typo.
func Parse(b []byte) (*Config, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	c := new(Config)
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("%s: %w", Path, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%s: more than one JSON value", Path)
	}
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", Path, err)
	}
	return c, nil
}

// Marshal is the file that Parse reads.
func (c *Config) Marshal() ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return json.MarshalIndent(c, "", "\t")
}

// Check finds what no guest could do, so that the host refuses it before a boot.
func (c *Config) Check() error {
	errs := []error{
		checkHostname(c.Hostname),
		checkPath("cwd", c.Cwd), checkPath("root", c.Root),
		checkName("console", strings.TrimPrefix(c.Console, "/dev/")),
	}
	for _, s := range c.Env {
		if name, _, ok := strings.Cut(s, "="); !ok || name == "" {
			errs = append(errs, fmt.Errorf("env %q: want NAME=value", s))
		}
		errs = append(errs, checkString("env", s))
	}
	for i, s := range c.Args {
		if i == 0 && s == "" {
			errs = append(errs, errors.New("args: an empty program name"))
		}
		errs = append(errs, checkString("args", s))
	}
	for _, s := range c.Modules {
		errs = append(errs, checkPath("module", s))
	}
	for _, m := range c.Mounts {
		errs = append(errs, m.check())
	}
	errs = append(errs, c.Network.check())
	return errors.Join(errs...)
}

func (m Mount) check() error {
	if m.Target == "" || path.Clean(m.Target) == "/" {
		return fmt.Errorf("mount %q: the target %q is not a directory to mount on (for a new / name it as root)", m.Source, m.Target)
	}
	if m.Type == "" {
		return fmt.Errorf("mount %q on %s: no type (virtiofs, ext4, tmpfs …)", m.Source, m.Target)
	}
	for _, s := range append([]string{m.Source, m.Type}, m.Options...) {
		if err := checkString("mount", s); err != nil {
			return err
		}
	}
	return checkPath("mount target", m.Target)
}

func (n Network) check() error {
	for _, i := range n.Interfaces {
		if err := i.check(); err != nil {
			return err
		}
	}
	for _, a := range n.Nameservers {
		if !a.IsValid() {
			return errors.New("nameservers: an empty address")
		}
	}
	for name, a := range n.Hosts {
		if err := checkHostname(name); err != nil || name == "" || !a.IsValid() {
			return fmt.Errorf("hosts: %q at %v: want a name and an address", name, a)
		}
	}
	for _, s := range n.Search {
		if err := checkHostname(s); err != nil || s == "" {
			return fmt.Errorf("search: %q is not a domain", s)
		}
	}
	return nil
}

func (i Interface) check() error {
	if i.Name == "" && i.MAC == "" {
		return errors.New("interface: neither a name nor a MAC")
	}
	if i.MAC != "" {
		if mac, err := net.ParseMAC(i.MAC); err != nil || len(mac) != 6 {
			return fmt.Errorf("interface %s: %q is not a MAC", i.Name, i.MAC)
		}
	}
	if i.Name != "" && len(i.Name) > 15 { // IFNAMSIZ
		return fmt.Errorf("interface %q: longer than 15 bytes", i.Name)
	}
	if i.MTU != 0 && (i.MTU < 68 || i.MTU > 65535) { // ETH_MIN_MTU, ETH_MAX_MTU
		return fmt.Errorf("interface %s%s: an MTU of %d is not within 68 and 65535", i.Name, i.MAC, i.MTU)
	}
	for _, a := range i.Addresses {
		if !a.IsValid() {
			return fmt.Errorf("interface %s%s: an empty address", i.Name, i.MAC)
		}
	}
	for _, r := range i.Routes {
		if !r.Destination.IsValid() && !r.Gateway.IsValid() {
			return fmt.Errorf("interface %s%s: a route with neither destination nor gateway", i.Name, i.MAC)
		}
	}
	return checkName("interface", i.Name)
}

func checkHostname(s string) error {
	const most = 64 // __NEW_UTS_LEN
	if len(s) > most {
		return fmt.Errorf("hostname %q: %d bytes, more than %d", s, len(s), most)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '/' || r >= 0x7f }) {
		return fmt.Errorf("hostname %q: not a name", s)
	}
	return nil
}

func checkPath(what, s string) error {
	if s != "" && !path.IsAbs(s) {
		return fmt.Errorf("%s %q: not an absolute path", what, s)
	}
	return checkString(what, s)
}

func checkName(what, s string) error {
	if strings.ContainsAny(s, "/ \t\n") || s == "." || s == ".." {
		return fmt.Errorf("%s %q: not a name", what, s)
	}
	return checkString(what, s)
}

// checkString refuses the byte that ends a string in every system call.
func checkString(what, s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%s %q: a NUL byte", what, s)
	}
	return nil
}
