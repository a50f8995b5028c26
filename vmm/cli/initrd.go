package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"bulkhead/guestinit/config"
	"bulkhead/virtio/net"
	"bulkhead/vmm/boot"
	words "bulkhead/vmm/config"
	"bulkhead/vmm/initramfs"
)

// initrd opens the parts of the initramfs: the given ones, then guestinit and
// what it is told.
func (r *run) initrd() ([]boot.Part, error) {
	var parts []boot.Part
	for _, path := range r.words.Initrd {
		f, err := r.openFile("initrd", path)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("initrd: %w", err)
		}
		if !st.Mode().IsRegular() {
			return nil, fmt.Errorf("initrd %s: not a regular file", path)
		}
		parts = append(parts, boot.Part{ReaderAt: f, Size: st.Size(), Name: path})
	}
	if !r.words.Guestinit() {
		return parts, nil
	}
	ours, err := r.guestinit()
	return append(parts, ours...), err
}

// openFile opens a file that stays open until the run ends.
func (r *run) openFile(what, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	r.closers = append(r.closers, f.Close)
	return f, nil
}

// guestinit is an archive with guestinit as /init, and its configuration.
func (r *run) guestinit() ([]boot.Part, error) {
	path, err := findGuestinit()
	if err != nil {
		return nil, err
	}
	f, err := r.openFile("guestinit", path)
	if err != nil {
		return nil, err
	}
	c, err := r.guestConfig()
	if err != nil {
		return nil, err
	}
	init, err := initramfs.Copy("/init", 0o755, f)
	if err != nil {
		return nil, err
	}
	return initramfs.Build(init, initramfs.Bytes(config.Path, 0o600, c))
}

func findGuestinit() (string, error) {
	return find("guestinit", "build it (make build), or give an --initrd of your own")
}

// findKernel is for those who name none.
func findKernel() (string, error) {
	return find("vmlinux", "make it (make kernel), or give a KERNEL")
}

// find looks beside this program, and where make install puts things.
func find(name, remedy string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("%s: where this program lies: %w", name, err)
	}
	dir := filepath.Dir(self)
	places := []string{filepath.Join(dir, name), filepath.Join(dir, "../libexec/bulkhead", name)}
	for _, p := range places {
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
	}
	return "", fmt.Errorf("%s: not at %s nor at %s; %s", name, places[0], places[1], remedy)
}

// guestConfig is what guestinit is told: its command, where shares go, the
// addresses of its networks, and the time.
func (r *run) guestConfig() ([]byte, error) {
	m := r.words
	c := m.Container
	c.Hostname, c.Args, c.Time = cmp.Or(c.Hostname, "vm"), m.Command, time.Now()
	var shares []config.Mount // before others, which may lie on them
	for _, s := range m.Shares {
		mount := config.Mount{Source: s.Tag, Target: s.At, Type: "virtiofs"}
		if s.ReadOnly {
			mount.Options = []string{"ro"}
		}
		shares = append(shares, mount)
	}
	c.Mounts = append(shares, c.Mounts...)
	for i := range m.Nets {
		addInterface(&c.Network, &m.Nets[i])
	}
	for _, t := range r.terminals {
		if columns, rows, ok := t.Size(); ok {
			c.Columns, c.Rows = columns, rows
		}
	}
	b, err := c.Marshal()
	if err != nil {
		return nil, fmt.Errorf("what guestinit is told: %w", err)
	}
	return b, nil
}

// addInterface describes the guest's end of n, which is found by its MAC: the
// device gets the one that is chosen here.
func addInterface(to *config.Network, n *words.Net) {
	if !n.Address.IsValid() {
		return
	}
	if n.MAC == nil {
		n.MAC = net.RandomMAC()
	}
	i := config.Interface{MAC: n.MAC.String(), Addresses: []netip.Prefix{n.Address}}
	if n.Gateway.IsValid() {
		i.Routes = []config.Route{{Gateway: n.Gateway}}
	}
	if n.DNS.IsValid() {
		to.Nameservers = append(to.Nameservers, n.DNS)
	}
	to.Interfaces = append(to.Interfaces, i)
}
