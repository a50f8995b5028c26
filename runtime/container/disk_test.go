package container

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestParseRootfs(t *testing.T) {
	for text, want := range map[string]rootImage{
		"": {}, "share": {}, "erofs": {"erofs", 0}, "ext4": {"ext4", 0}, "ext4,size=4G": {"ext4", 4 << 30}, "ext4,size=512m": {"ext4", 512 << 20},
	} {
		if got, err := parseRootfs(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"erof":                           `"erof" is none of share, erofs, ext4`,
		"erofs,size=1G":                  `erofs takes no "size=1G"`,
		"ext4,":                          "is not size=BYTES",
		"ext4,1G":                        "is not size=BYTES",
		"ext4,size=":                     "is not size=BYTES",
		"ext4,size=-1":                   "is not size=BYTES",
		"ext4,size=0":                    "is not size=BYTES",
		"ext4,size=9999T":                "is not size=BYTES",
		"ext4,size=99999999999999999999": "is not size=BYTES",
	} {
		if got, err := parseRootfs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %s", text, got, err, want)
		}
	}
}

func TestParseDisks(t *testing.T) {
	got, err := parseDisks("/srv/a.img:/dev/data,/dev/vg0/b:/dev/disk/b:ro,/c:/dev/c:rw")
	want := []hostDisk{{"/srv/a.img", "/dev/data", false, 0}, {"/dev/vg0/b", "/dev/disk/b", true, 0}, {"/c", "/dev/c", false, 0}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"/a":                            "is not HOST:NODE",
		"/a:/dev/a:wo":                  "is not HOST:NODE",
		"/a:/dev/a:ro:x":                "is not HOST:NODE",
		"a:/dev/a":                      `"a" is no absolute path`,
		",":                             "is not HOST:NODE",
		"/a:/data":                      "no path beneath /dev",
		"/a:/dev/":                      "no path beneath /dev",
		"/a:/dev/../etc/passwd":         "no path beneath /dev",
		"/a:/dev/a\x00":                 "no path beneath /dev",
		"/a:/dev/null":                  "/dev/null is another device's",
		"/a:/dev/pts/1":                 "/dev/pts/1 is another device's",
		"/a:/dev/x,/b:/dev/x":           "/dev/x is given twice",
		strings.Repeat("/a:/dev/a,", 3): "given twice",
		"/a:/dev/1,/a:/dev/2,/a:/dev/3,/a:/dev/4,/a:/dev/5,/a:/dev/6,/a:/dev/7,/a:/dev/8,/a:/dev/9": "more than 8 disks",
	} {
		if got, err := parseDisks(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %s", text, got, err, want)
		}
	}
}

// TestOpenDisk: what is judged is where a name leads.
func TestOpenDisk(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	for _, path := range []string{dir + "/a.img", other + "/secret"} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"out.img": other + "/secret", "in.img": dir + "/a.img"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(dir+"/fifo.img", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/dir.img", 0o700); err != nil {
		t.Fatal(err)
	}
	r := &Runtime{Disks: "/nowhere/*:" + dir + "/*.img:[", Root: t.TempDir()}
	for name, want := range map[string]string{
		dir + "/a.img":    "",
		dir + "/in.img":   "",
		dir + "/out.img":  "gives containers no such disk (it is " + other + "/secret)",
		other + "/secret": "gives containers no such disk: name it to --disks",
		dir + "/fifo.img": "neither a file nor a block device",
		dir + "/dir.img":  "neither a file nor a block device",
		dir + "/none.img": "no such file",
	} {
		for _, readOnly := range []bool{true, false} {
			f, err := r.openDisk(name, readOnly)
			if err == nil {
				f.Close()
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
	if _, err := (&Runtime{}).openDisk(dir+"/a.img", true); err == nil {
		t.Error("a host that gives none gave one")
	}
}

// TestBlockDevices: what a bundle names of the host's block devices becomes disks.
func TestBlockDevices(t *testing.T) {
	sys := t.TempDir()
	for name, text := range map[string]string{"8:16": "MAJOR=8\nMINOR=16\nDEVNAME=vdb\nDEVTYPE=disk\n", "8:17": "MAJOR=8\n"} {
		if err := os.MkdirAll(filepath.Join(sys, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, name, "uevent"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for minor, want := range map[int64]string{16: "", 17: "has no name", 18: "this host has no block device 8:18"} {
		if got, err := blockDevice(sys, 8, minor); want == "" && (err != nil || got != "/dev/vdb") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d: %q, %v, want %q", minor, got, err, want)
		}
	}
	number := func(n int64) *int64 { return &n }
	disk := specs.LinuxDevice{Type: "b", Path: "/dev/xvda", Major: 8, Minor: 1 << 19}
	allow := func(kind, access string, major, minor *int64) *specs.LinuxResources {
		return &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: kind, Access: access, Major: major, Minor: minor}}}
	}
	for _, row := range []struct {
		name     string
		r        *specs.LinuxResources
		all, can bool
	}{
		{"nothing said", nil, false, true},
		{"read", allow("b", "r", number(8), number(1<<19)), false, false},
		{"read and write", allow("b", "rwm", number(8), number(1<<19)), false, true},
		{"another", allow("b", "r", number(8), number(1)), false, true},
		{"privileged", allow("a", "rwm", nil, nil), true, true},
		{"privileged, by numbers", allow("", "rwm", number(-1), number(-1)), true, true},
	} {
		if all, can := allDevices(row.r), writable(row.r, disk); all != row.all || can != row.can {
			t.Errorf("%s: all %v, writable %v", row.name, all, can)
		}
		n := &creation{spec: &specs.Spec{Linux: &specs.Linux{Resources: row.r, Devices: []specs.LinuxDevice{{Type: "c", Path: "/dev/x"}, disk}}}}
		err := n.blockDevices()
		if row.all != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), "linux.devices[1] /dev/xvda: this host has no block device 8:524288") {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := isDevice(f, unix.Mkdev(1, 3)); err == nil || err.Error() != "it is not the block device 1:3" {
		t.Errorf("%v", err)
	}
}

func TestMachineWords(t *testing.T) {
	for name, want := range map[string]string{
		agent.MemoryAnnotation:   "",
		"dev.bulkhead.isolation": "",
		"dev.bulkhead.vm.rootf":  "annotation dev.bulkhead.vm.rootf is unknown; is dev.bulkhead.vm.rootfs meant?",
		"dev.bulkhead.vm.kernel": "annotation dev.bulkhead.vm.kernel is unknown (" + strings.Join(agent.MachineWords, ", ") + ")",
		"dev.bulkhead.vm.disk":   "annotation dev.bulkhead.vm.disk is unknown; is dev.bulkhead.vm.disks meant?",
	} {
		if err := checkWords(map[string]string{name: "x"}); err == nil && want != "" || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestDiskSlots: how many disks a machine has room for when it runs, and who is refused.
func TestDiskSlots(t *testing.T) {
	sandbox := map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
	for _, row := range []struct {
		name        string
		annotations map[string]string // of a pod's own container, or
		alone       bool              // of none
		overlay     string            // of the runtime's
		want        int
		err         string
	}{
		{name: "a container", alone: true},
		{name: "one with an image", annotations: map[string]string{"rootfs": "erofs"}, alone: true},
		{name: "one that says so", annotations: map[string]string{"disk-slots": "3"}, alone: true, want: 3},
		{name: "a pod"},
		{name: "a pod with images", annotations: map[string]string{"rootfs": "ext4,size=1G"}, want: 4},
		{name: "a pod with images and a disk", annotations: map[string]string{"rootfs": "erofs", "disks": "/a:/dev/a,/b:/dev/b"}, want: 6},
		{name: "a pod whose writes go to disks", overlay: "dir=/srv", annotations: map[string]string{"rootfs": "erofs"}, want: 8},
		{name: "a pod that wants none", annotations: map[string]string{"rootfs": "erofs", "disk-slots": "0"}},
		{name: "too many", annotations: map[string]string{"disk-slots": "9"}, err: `"9" is not a number from 0 to 8`},
		{name: "no number", annotations: map[string]string{"disk-slots": "some"}, err: `"some" is not a number from 0 to 8`},
	} {
		a := map[string]string{}
		if !row.alone {
			maps.Copy(a, sandbox)
		}
		for name, value := range row.annotations {
			a[agent.MachineAnnotations+name] = value
		}
		n := &creation{Create: &Create{ID: "one"}, rt: &Runtime{Overlay: row.overlay}, c: &Container{State: &state.State{Isolation: vmWall}},
			spec: &specs.Spec{Annotations: a, Linux: &specs.Linux{}}}
		err := n.chooseFiles()
		if got := n.c.State.DiskSlots; got != row.want || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%s: %d, %v; want %d, %s", row.name, got, err, row.want, row.err)
		}
		if !row.alone && len(n.disks) != 0 {
			t.Errorf("%s: the pod's own container takes its containers' disks", row.name)
		}
	}
	for _, row := range []struct {
		name, annotation, value string
		slots                   int
		want                    string
	}{
		{"a slot", "rootfs", "erofs", 1, ""},
		{"nothing asked for", "rootfs", "share", 0, ""},
		{"an image", "rootfs", "erofs", 0, "annotation dev.bulkhead.vm.rootfs: the machine of the pod pod runs, and was made without slots"},
		{"a disk", "disks", "/a:/dev/a", 0, "annotation dev.bulkhead.vm.disks: the machine of the pod pod runs, and was made without slots"},
	} {
		n := &creation{Create: &Create{ID: "one"}, rt: &Runtime{}, c: &Container{State: &state.State{Isolation: vmWall}},
			spec: &specs.Spec{Annotations: map[string]string{agent.MachineAnnotations + row.annotation: row.value}, Linux: &specs.Linux{}},
			pod:  &Container{State: &state.State{ID: "pod", DiskSlots: row.slots}}}
		if err := n.chooseFiles(); (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s", row.name, err, row.want)
		}
	}
}
