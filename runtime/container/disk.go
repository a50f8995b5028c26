package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/bundle"
	"bulkhead/runtime/sandbox"
	"bulkhead/runtime/spelling"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rootImage is a root that is a disk, made for the container of its directory.
type rootImage struct {
	kind string // erofs, ext4; "" is none: the root is shared
	size int64  // bytes; 0 is for us to choose
}

func parseRootfs(text string) (r rootImage, err error) {
	kind, option, has := strings.Cut(text, ",")
	switch {
	case kind != "" && kind != "share" && kind != "erofs" && kind != "ext4":
		return r, fmt.Errorf("annotation %s: %q is none of share, erofs, ext4", agent.RootfsAnnotation, kind)
	case has && kind != "ext4":
		return r, fmt.Errorf("annotation %s: %s takes no %q", agent.RootfsAnnotation, kind, option)
	case kind == "" || kind == "share":
		return r, nil
	}
	r.kind = kind
	if !has {
		return r, nil
	}
	text, ok := strings.CutPrefix(option, "size=")
	if ok {
		r.size, err = parseSize(text)
	}
	if !ok || err != nil {
		return r, fmt.Errorf("annotation %s: %q is not size=BYTES (4G, 512M)", agent.RootfsAnnotation, option)
	}
	return r, nil
}

// parseSize reads 512M, 4G.
func parseSize(text string) (int64, error) {
	low, shift := strings.ToLower(text), 0
	for i, unit := range []string{"k", "m", "g", "t"} {
		if rest, ok := strings.CutSuffix(low, unit); ok {
			low, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(low, 10, 64)
	if err != nil || n <= 0 || n > (1<<50)>>shift {
		return 0, fmt.Errorf("%q is no size in bytes", text)
	}
	return n << shift, nil
}

// hostDisk is a file or a block device of the host's that a container is to have.
type hostDisk struct {
	path, node string
	readOnly   bool
	number     uint64 // that it must have, as a device; 0: whatever is there
}

// nodes are those that each container has in /dev (config-linux.md, "Default Devices").
var nodes = []string{"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr"}

// mostDisks is what a person may want; each is an interrupt of the machine's, and some threads.
const mostDisks = 8

func parseDisks(text string) (all []hostDisk, err error) {
	if text == "" {
		return nil, nil
	}
	complain := func(of, problem string, args ...any) error {
		return fmt.Errorf("annotation %s: %q: %s", agent.DisksAnnotation, of, fmt.Sprintf(problem, args...))
	}
	for one := range strings.SplitSeq(text, ",") {
		parts := strings.Split(one, ":")
		d := hostDisk{path: parts[0]}
		switch {
		case len(parts) == 3 && parts[2] == "ro":
			d.readOnly = true
		case len(parts) == 3 && parts[2] != "rw", len(parts) != 2 && len(parts) != 3:
			return nil, complain(one, "it is not HOST:NODE, HOST:NODE:ro or HOST:NODE:rw")
		}
		if !filepath.IsAbs(d.path) {
			return nil, complain(one, "%q is no absolute path", d.path)
		}
		d.node = parts[1]
		if all, err = addDisk(all, d); err != nil {
			return nil, complain(one, "%v", err)
		}
	}
	return all, nil
}

// addDisk adds one whose node can be a disk's and is nobody else's.
func addDisk(all []hostDisk, d hostDisk) ([]hostDisk, error) {
	rest, inDev := strings.CutPrefix(d.node, "/dev/")
	switch {
	case !inDev || path.Clean(d.node) != d.node || rest == "" || strings.ContainsRune(d.node, 0) || len(d.node) > unix.NAME_MAX:
		return nil, fmt.Errorf("%q is no path beneath /dev", d.node)
	case slices.Contains(nodes, strings.Split(rest, "/")[0]):
		return nil, fmt.Errorf("%s is another device's, or a file system's", d.node)
	case slices.ContainsFunc(all, func(o hostDisk) bool { return o.node == d.node }):
		return nil, fmt.Errorf("%s is given twice", d.node)
	case len(all) == mostDisks:
		return nil, fmt.Errorf("more than %d disks", mostDisks)
	}
	return append(all, d), nil
}

// blockDevices adds those that linux.devices names (docker --device=/dev/vdb): a number of the
// host's means nothing to a guest, which has them as disks. Whom the host lets have all of its
// devices (docker --privileged) has not asked for any.
func (n *creation) blockDevices() error {
	for i, d := range n.spec.Linux.Devices {
		if d.Type != "b" || allDevices(n.spec.Linux.Resources) {
			continue
		}
		name, err := blockDevice(sysBlock, d.Major, d.Minor)
		if err == nil {
			n.disks, err = addDisk(n.disks, hostDisk{name, d.Path, !writable(n.spec.Linux.Resources, d), unix.Mkdev(uint32(d.Major), uint32(d.Minor))})
		}
		if err != nil {
			return fmt.Errorf("linux.devices[%d] %s: %w", i, bundle.OneLine(d.Path), err)
		}
	}
	return nil
}

// sysBlock has a directory for each block device, by its number (sysfs(5), /sys/dev).
const sysBlock = "/sys/dev/block"

// blockDevice is the path of a block device of the host's.
func blockDevice(sys string, major, minor int64) (string, error) {
	text, err := os.ReadFile(filepath.Join(sys, fmt.Sprintf("%d:%d", major, minor), "uevent"))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("this host has no block device %d:%d", major, minor)
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name, nil
		}
	}
	return "", fmt.Errorf("block device %d:%d has no name", major, minor)
}

// isDevice fails where another has come to have the name of the device of that number.
func isDevice(f *os.File, number uint64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != number {
		f.Close()
		return fmt.Errorf("it is not the block device %d:%d", unix.Major(number), unix.Minor(number))
	}
	return nil
}

// allDevices tells a container that may use whatever the host has.
func allDevices(r *specs.LinuxResources) bool {
	return r != nil && slices.ContainsFunc(r.Devices, func(c specs.LinuxDeviceCgroup) bool {
		return c.Allow && (c.Type == "" || c.Type == "a") && every(c.Major) && every(c.Minor)
	})
}

// every: no number stands for all, and so does -1 (config-linux.md, "Allowed Device list").
func every(n *int64) bool { return n == nil || *n == -1 }

// writable tells what the list of allowed devices says of one: what it does not name may be
// written to.
func writable(r *specs.LinuxResources, d specs.LinuxDevice) bool {
	if r == nil {
		return true
	}
	can := true
	for _, c := range r.Devices {
		if c.Allow && c.Type == d.Type && c.Major != nil && *c.Major == d.Major && c.Minor != nil && *c.Minor == d.Minor {
			can = strings.Contains(c.Access, "w")
		}
	}
	return can
}

// caches are how long a guest may believe what it knows of shared names.
var caches = map[string]time.Duration{"": 0, "auto": 0, "never": -1, "always": 24 * time.Hour}

// checkWords refuses an annotation of a machine that there is not: what was asked for, and is
// not given, may be what keeps it small, or safe.
func checkWords(annotations map[string]string) error {
	var words []string
	for _, w := range agent.MachineWords {
		words = append(words, strings.TrimPrefix(w, agent.MachineAnnotations))
	}
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		word, ours := strings.CutPrefix(name, agent.MachineAnnotations)
		if !ours || slices.Contains(words, word) {
			continue
		}
		if near := spelling.Nearest(word, words); near != "" {
			return fmt.Errorf("annotation %s is unknown; is %s meant?", bundle.OneLine(name), agent.MachineAnnotations+near)
		}
		return fmt.Errorf("annotation %s is unknown (%s)", bundle.OneLine(name), strings.Join(agent.MachineWords, ", "))
	}
	return nil
}

// chooseFiles settles what of the machine's files are disks, before anything is made.
func (n *creation) chooseFiles() (err error) {
	if n.c.State.Isolation != vmWall {
		return nil // as with all that is a machine's
	}
	a := n.spec.Annotations
	if err := checkWords(a); err != nil {
		return err
	}
	if n.root, err = parseRootfs(a[agent.RootfsAnnotation]); err != nil {
		return err
	}
	if n.disks, err = parseDisks(a[agent.DisksAnnotation]); err != nil {
		return err
	}
	if n.pod == nil {
		if n.c.State.DiskSlots, err = n.diskSlots(); err != nil {
			return err
		}
	}
	if podSandbox(a) {
		n.disks = nil // a pod's annotations are given to all its containers, and this one has no use for it
	}
	annotated := len(n.disks)
	if err := n.blockDevices(); err != nil {
		return err
	}
	var ok bool
	if n.config.Gofer.Cache, ok = caches[a[agent.ShareCacheAnnotation]]; !ok {
		return fmt.Errorf("annotation %s: %q is none of auto, never, always", agent.ShareCacheAnnotation, a[agent.ShareCacheAnnotation])
	}
	if n.pod == nil {
		return nil
	}
	switch {
	case len(n.disks) > annotated:
		return n.checkSlots("linux.devices: " + n.disks[annotated].node)
	case annotated > 0:
		return n.checkSlots("annotation " + agent.DisksAnnotation)
	case n.root.kind != "":
		return n.checkSlots("annotation " + agent.RootfsAnnotation)
	}
	return nil
}

// The slots of a machine. Each takes an interrupt, of which there are few.
const (
	mostSlots     = 8
	ordinarySlots = 4 // of a pod whose containers have a disk each
)

// diskSlots is how many disks containers can have that come into the machine when it runs.
// Where nothing is said, a Kubernetes pod has some for what its annotations ask for, each of
// its containers having them too.
func (n *creation) diskSlots() (int, error) {
	a := n.spec.Annotations
	if text, ok := a[agent.DiskSlotsAnnotation]; ok {
		slots, err := strconv.Atoi(text)
		if err != nil || slots < 0 || slots > mostSlots {
			return 0, fmt.Errorf("annotation %s: %q is not a number from 0 to %d", agent.DiskSlotsAnnotation, text, mostSlots)
		}
		return slots, nil
	}
	if !podSandbox(a) {
		return 0, nil
	}
	slots := len(n.disks)
	if n.root.kind != "" {
		slots += ordinarySlots
	}
	if kind, _, _ := strings.Cut(n.chosenOverlay(), "="); kind == "dir" {
		slots += ordinarySlots
	}
	return min(slots, mostSlots), nil
}

// checkSlots refuses what wants a disk in a pod's machine that was made without slots. How
// many are free the machine knows.
func (n *creation) checkSlots(what string) error {
	if n.pod.State.DiskSlots > 0 {
		return nil
	}
	return fmt.Errorf("%s: the machine of the pod %s runs, and was made without slots for more disks (annotation %s of the pod's own container: 4, for four)",
		what, n.pod.State.ID, agent.DiskSlotsAnnotation)
}

// chosenOverlay is none, memory or dir=….
func (n *creation) chosenOverlay() string {
	return first(n.rt.Overlay, n.spec.Annotations[overlayAnnotation], n.rt.DefaultOverlay, "none")
}

// chooseOverlay settles where writes to the root go, and, with a directory, in which.
func (n *creation) chooseOverlay() (dir string, err error) {
	chosen := n.chosenOverlay()
	kind, dir, _ := strings.Cut(chosen, "=")
	switch {
	case n.rt.Overlay == "" && dir != "" && chosen == n.spec.Annotations[overlayAnnotation]:
		// Who may annotate a container is not thereby entitled to write anywhere.
		return "", fmt.Errorf("annotation %s: %q is neither none nor memory", overlayAnnotation, chosen)
	case kind == "none" && dir == "" && n.root.kind == "erofs":
		if first(n.rt.Overlay, n.spec.Annotations[overlayAnnotation]) == "none" {
			return "", fmt.Errorf("--overlay=none, and the root is an EROFS image (annotation %s), which cannot be written to: leave it out (what is written stays in memory), or take ext4", agent.RootfsAnnotation)
		}
		kind = "memory"
	case kind == "none" && dir == "", kind == "memory" && dir == "":
	case kind == "dir" && filepath.IsAbs(dir):
		if n.pod != nil && n.c.isMachine() {
			if err := n.checkSlots("--overlay=dir"); err != nil {
				return "", err
			}
		}
	default:
		return "", fmt.Errorf("--overlay=%s is none of none, memory, dir=/absolute/path", chosen)
	}
	n.overlay = kind
	return dir, nil
}

// imageDir is where roots' images are: on a disk, without names. The directory stays empty.
func imageDir() string {
	if cache, err := os.UserCacheDir(); rootless() && err == nil {
		return filepath.Join(cache, "bulkhead/images")
	}
	return "/var/lib/bulkhead/images"
}

// openDisks makes or opens what the machine has for disks.
func (n *creation) openDisks(ctx context.Context) error {
	if n.root.kind != "" {
		dir := imageDir()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		readOnly := n.root.kind == "erofs" || n.overlay != "none"
		err := n.makeDisk(ctx, &agent.ImageRequest{Type: n.root.kind, Source: n.spec.Root.Path, Size: n.root.size, Where: dir},
			agent.Disk{Root: n.root.kind, ReadOnly: readOnly})
		if err != nil {
			return fmt.Errorf("the root as an %s image (annotation %s): %w", n.root.kind, agent.RootfsAnnotation, err)
		}
	}
	if n.overlay == "dir" {
		err := n.makeDisk(ctx, &agent.ImageRequest{Type: "ext4", Where: n.overlayDir}, agent.Disk{Upper: "ext4"})
		if err != nil {
			return fmt.Errorf("--overlay=dir: a disk in %s: %w", n.overlayDir, err)
		}
	}
	for _, d := range n.disks {
		f, err := n.rt.openDisk(d.path, d.readOnly)
		if err == nil && d.number != 0 {
			err = isDevice(f, d.number)
		}
		if err != nil && d.number != 0 {
			return fmt.Errorf("linux.devices: %s: %w", d.path, err)
		}
		if err != nil {
			return fmt.Errorf("annotation %s: %s: %w", agent.DisksAnnotation, d.path, err)
		}
		n.addDisk(f, agent.Disk{Name: d.path, Node: d.node, ReadOnly: d.readOnly})
	}
	return nil
}

func (n *creation) makeDisk(ctx context.Context, r *agent.ImageRequest, d agent.Disk) error {
	f, err := sandbox.MakeImage(ctx, r)
	if err != nil {
		return err
	}
	d.Name = f.Name()
	n.addDisk(f, d)
	n.rt.Milestone(d.Name + " made")
	return nil
}

func (n *creation) addDisk(f *os.File, d agent.Disk) {
	n.own = append(n.own, f)
	n.config.Machine.Disks = append(n.config.Machine.Disks, sandbox.Disk{File: f, Disk: d})
}

// openDisk opens what an annotation names, if the host's owner lets annotations have it: who
// may annotate a container is not thereby entitled to the host's disks. What is
// judged is the file that was found, whatever links led there.
func (r *Runtime) openDisk(name string, readOnly bool) (*os.File, error) {
	found, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(found)
	self := fmt.Sprintf("/proc/self/fd/%d", found)
	real, err := os.Readlink(self)
	if err != nil {
		return nil, err
	}
	if !allowed(r.Disks, real) {
		where := ""
		if real != name {
			where = " (it is " + real + ")"
		}
		return nil, fmt.Errorf("this host gives containers no such disk%s: name it to --disks, or as disks in the file of settings (/images/*:/dev/vg0/*)", where)
	}
	var st unix.Stat_t
	if err := unix.Fstat(found, &st); err != nil {
		return nil, err
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK
	if readOnly {
		flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		if !readOnly {
			flags |= unix.O_EXCL // EBUSY where the host has it mounted (open(2))
		}
	default:
		return nil, errors.New("it is neither a file nor a block device")
	}
	fd, err := unix.Open(self, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("the host uses it (it is mounted, or part of another device): %w", err)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// allowed tells whether one of the patterns (filepath.Match, with colons between them) is of
// that path.
func allowed(patterns, path string) bool {
	for p := range strings.SplitSeq(patterns, ":") {
		if ok, err := filepath.Match(p, path); err == nil && ok {
			return true
		}
	}
	return false
}
