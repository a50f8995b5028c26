package agent

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// kind is one of the machine's devices of which there may be several. What they are is
// not known yet in a guest that others go on from: its drivers let go of them, and take
// them, with what they have become, when that guest begins.
type kind struct {
	what   string
	id     uint64 // among virtio's devices (virtio 1.3 §5)
	driver string
	class  string // the directory with the name that a driver gave it
}

var (
	networks = kind{"network devices", 1, "virtio_net", "net"}
	disks    = kind{"disks", 2, "virtio_blk", "block"}
)

// device is one on the virtio bus.
type device struct {
	device string // its name on the bus, as virtio3
	number int    // on the bus: the order of the machine's devices
	name   string // of the interface or disk, as eth0; "" without a driver
}

const busDevices = "/sys/bus/virtio/devices/"

// list has all of the kind, in the machine's order.
func (k *kind) list() ([]device, error) {
	paths, err := filepath.Glob(busDevices + "*")
	if err != nil {
		return nil, err
	}
	var devices []device
	for _, path := range paths {
		text, err := os.ReadFile(path + "/device")
		if err != nil {
			return nil, err
		}
		if id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 32); err != nil || id != k.id {
			continue
		}
		d := device{device: filepath.Base(path)}
		if d.number, err = strconv.Atoi(strings.TrimPrefix(d.device, "virtio")); err != nil {
			return nil, err
		}
		if names, err := os.ReadDir(path + "/" + k.class); err == nil && len(names) > 0 {
			d.name = names[0].Name()
		}
		devices = append(devices, d)
	}
	slices.SortFunc(devices, func(a, b device) int { return cmp.Compare(a.number, b.number) })
	return devices, nil
}

// tell writes a device's name where the driver lets go of one, or takes one
// (Documentation/ABI/testing/sysfs-bus-*, bind and unbind).
func (k *kind) tell(what string, d device) error {
	if err := os.WriteFile("/sys/bus/virtio/drivers/"+k.driver+"/"+what, []byte(d.device), 0); err != nil {
		return fmt.Errorf("%s: %s %s: %w", k.what, what, d.device, err)
	}
	return nil
}

// letGo parts all but the first n from their driver.
func (k *kind) letGo(n int) error {
	devices, err := k.list()
	if err != nil {
		return err
	}
	for _, d := range devices[min(n, len(devices)):] {
		if d.name == "" {
			continue
		}
		if err := k.tell("unbind", d); err != nil {
			return err
		}
	}
	return nil
}

// again has the driver find out what the i-th has become.
func (k *kind) again(i int) (device, error) {
	devices, err := k.list()
	if err != nil {
		return device{}, err
	}
	if i >= len(devices) {
		return device{}, fmt.Errorf("the machine has %d %s, and no number %d", len(devices), k.what, i)
	}
	d := devices[i]
	if d.name != "" {
		if err := k.tell("unbind", d); err != nil {
			return d, err
		}
	}
	if err := k.tell("bind", d); err != nil {
		return d, err
	}
	if devices, err = k.list(); err != nil {
		return d, err
	}
	if i >= len(devices) || devices[i].device != d.device || devices[i].name == "" {
		return d, fmt.Errorf("%s: %s has no driver", k.what, d.device)
	}
	return devices[i], nil
}

// take has the driver take the first n, if it has not yet, and gives those.
func (k *kind) take(n int) ([]device, error) {
	if n == 0 {
		return nil, nil
	}
	devices, err := k.list()
	if err != nil {
		return nil, err
	}
	if n > len(devices) {
		return nil, fmt.Errorf("%d %s wanted, and the machine has %d", n, k.what, len(devices))
	}
	for _, d := range devices[:n] {
		if d.name != "" {
			continue
		}
		if err := k.tell("bind", d); err != nil {
			return nil, err
		}
	}
	if devices, err = k.list(); err != nil {
		return nil, err
	}
	return devices[:n], nil
}
