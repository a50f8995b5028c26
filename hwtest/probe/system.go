package probe

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Memory is how much there is and in which sizes.
type Memory struct {
	Total       uint64 `json:"total_bytes"`
	Transparent string `json:"transparent_huge_pages"` // the setting
	Shared      string `json:"transparent_huge_pages_shmem"`
	Works       bool   `json:"transparent_huge_pages_work"` // asked for by madvise, touched, and found in smaps
	Reserved    int    `json:"hugetlb_pages"`               // of the default size
	Hugetlb     string `json:"hugetlb"`                     // "works", or why a mapping of one page fails
}

func (h Host) memory() Memory {
	const thp = "sys/kernel/mm/transparent_hugepage/"
	m := Memory{
		Total:       h.meminfo("MemTotal:") << 10,
		Transparent: chosen(h.line(thp + "enabled")),
		Shared:      chosen(h.line(thp + "shmem_enabled")),
		Reserved:    int(h.meminfo("HugePages_Total:")),
		Hugetlb:     "works",
	}
	works, err := h.Try.HugePages()
	m.Works = works
	if err != nil {
		m.Hugetlb = err.Error()
	}
	return m
}

// meminfo is a line's number.
func (h Host) meminfo(field string) uint64 {
	_, rest, _ := strings.Cut("\n"+h.line("proc/meminfo"), "\n"+field)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	n, _ := strconv.ParseUint(words[0], 10, 64)
	return n
}

// chosen is the word in brackets.
func chosen(line string) string {
	_, rest, found := strings.Cut(line, "[")
	if !found {
		return line
	}
	word, _, _ := strings.Cut(rest, "]")
	return word
}

const huge = 2 << 20

// hugePages uses one page of each kind.
func hugePages() (transparent bool, reserved error) {
	if page, err := unix.Mmap(-1, 0, huge, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB); err != nil {
		reserved = err
	} else {
		unix.Munmap(page)
	}
	area, err := unix.Mmap(-1, 0, 2*huge, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false, reserved
	}
	defer unix.Munmap(area)
	before := anonHuge()
	if unix.Madvise(area, unix.MADV_HUGEPAGE) != nil {
		return false, reserved
	}
	for at := 0; at < len(area); at += os.Getpagesize() {
		area[at] = 1
	}
	return anonHuge() > before, reserved
}

// anonHuge is this process's kilobytes in huge pages.
func anonHuge() int {
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(text, []byte("AnonHugePages:"))
	words := bytes.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(string(words[0]))
	return n
}

// Device is one that machines and their networks use.
type Device struct {
	Path   string `json:"path"`
	State  string `json:"state"` // "opens", "absent", or the error
	Reason string `json:"for"`
}

var devices = []Device{
	{"/dev/kvm", "", "both walls at hardware speed"},
	{"/dev/net/tun", "", "net devices of machines (TAP)"},
	{"/dev/vhost-net", "", "net in the kernel; ours is in process and does without"},
	{"/dev/vhost-vsock", "", "vsock in the kernel; ours is in process and does without"},
	{"/dev/vfio/vfio", "", "passing devices through"},
	{"/dev/userfaultfd", "", "page faults in user space without privilege"},
	{"/dev/fuse", "", "file systems in user space; ours are served without"},
}

func (h Host) devices() []Device {
	list := slices.Clone(devices)
	for i := range list {
		err := h.Try.Open(list[i].Path)
		switch {
		case err == nil:
			list[i].State = "opens"
		case errors.Is(err, unix.ENOENT):
			list[i].State = "absent"
		default:
			list[i].State = err.Error()
		}
	}
	return list
}

func openDevice(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// userModeOnly is UFFD_USER_MODE_ONLY (include/uapi/linux/userfaultfd.h).
const userModeOnly = 1

func (h Host) userfaultfd() string {
	err := h.Try.Userfaultfd(0)
	if err == nil {
		return "all faults"
	}
	if h.Try.Userfaultfd(userModeOnly) == nil {
		return "user faults only"
	}
	return err.Error()
}

func userfaultfd(flags int) error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, uintptr(flags|unix.O_CLOEXEC), 0, 0)
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

// Cgroup is the hierarchy that containers are put into.
type Cgroup struct {
	Version     string   `json:"version"` // "v2", "v1", "hybrid", "none"
	Controllers []string `json:"controllers"`
	// FavorDynMods makes moving processes cheap and forking dearer (v2 mount option).
	FavorDynMods bool `json:"favordynmods"`
}

func (h Host) cgroup() Cgroup {
	c := Cgroup{Version: "none", Controllers: []string{}}
	one, two := false, false
	for l := range strings.Lines(h.line("proc/self/mountinfo")) {
		before, after, found := strings.Cut(l, " - ")
		kind, super, _ := strings.Cut(after, " ")
		switch {
		case !found:
		case kind == "cgroup2":
			two = true
			c.FavorDynMods = c.FavorDynMods || strings.Contains(super, "favordynmods")
			if fields := strings.Fields(before); len(fields) > 4 && len(c.Controllers) == 0 {
				c.Controllers = append(c.Controllers, strings.Fields(h.line(strings.TrimPrefix(fields[4], "/")+"/cgroup.controllers"))...)
			}
		case kind == "cgroup":
			one = true
		}
	}
	switch {
	case one && two:
		c.Version = "hybrid"
	case one:
		c.Version = "v1"
	case two:
		c.Version = "v2"
	}
	if one {
		c.Controllers = append(c.Controllers, h.controllersV1()...)
	}
	slices.Sort(c.Controllers)
	return c
}

// controllersV1 reads /proc/cgroups: those with a hierarchy of their own.
func (h Host) controllersV1() []string {
	var names []string
	for l := range strings.Lines(h.line("proc/cgroups")) {
		f := strings.Fields(l)
		if len(f) == 4 && !strings.HasPrefix(f[0], "#") && f[1] != "0" && f[3] == "1" {
			names = append(names, f[0])
		}
	}
	return names
}
