package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// odd fills a directory with what a file system may lose.
func odd(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("odd/dir"), 0o755))
	must(t, os.WriteFile(at("odd/suid"), []byte("x\n"), 0o644))
	must(t, os.Chown(at("odd/suid"), 70000, 80000))
	must(t, unix.Chmod(at("odd/suid"), 0o4751))
	must(t, os.Link(at("odd/suid"), at("odd/hard")))
	must(t, os.Symlink("/etc/passwd", at("odd/link")))
	must(t, unix.Mkfifo(at("odd/fifo"), 0o600))
	must(t, unix.Mknod(at("odd/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Chmod(at("odd/null"), 0o666))
	sparse, err := os.Create(at("odd/sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("end"), 8<<20)
	must(t, err)
	must(t, sparse.Close())
	must(t, os.WriteFile(at("odd/"+strings.Repeat("n", 254)), nil, 0o600))
	must(t, os.Chown(at("odd/dir"), 1, 2))
	must(t, unix.Chmod(at("odd/dir"), 0o1770))
	must(t, os.Chown(dir, 5, 6))
	must(t, unix.Chmod(dir, 0o751))
}

// look prints what of it the container finds.
const look = `stat -c '%n %F %a %u:%g %h %s' / /odd/suid /odd/dir /odd/link /odd/fifo /odd/null /odd/sparse
ls /odd | wc -l; ls -d /lost+found; [ /odd/suid -ef /odd/hard ] && echo same; tail -c 3 /odd/sparse; echo
echo x >/odd/null; echo new >/new; cat /new; rm /odd/suid; cat /odd/hard; mkdir /odd/dir/sub && echo made
`

const found = `/ directory 751 5:6 %s %s
/odd/suid regular file 4751 70000:80000 2 2
/odd/dir directory 1770 1:2 2 %s
/odd/link symbolic link 777 0:0 1 11
/odd/fifo fifo 600 0:0 1 0
/odd/null character special file 666 0:0 1 0
/odd/sparse regular file 644 0:0 1 8388611
8
ls: /lost+found: No such file or directory
same
end
new
x
made
`

// same compares, but for what each file system has its own of: sizes and links of directories.
func same(got, expected string) bool {
	lines, want := strings.Split(got, "\n"), strings.Split(expected, "\n")
	if len(lines) != len(want) {
		return false
	}
	for i := range want {
		prefix, _, varies := strings.Cut(want[i], "%s")
		if lines[i] != want[i] && !(varies && strings.HasPrefix(lines[i], prefix)) {
			return false
		}
	}
	return true
}

func needImages(t *testing.T) {
	t.Helper()
	for _, need := range []struct{ program, pkg string }{{"mkfs.erofs", "erofs-utils"}, {"mke2fs", "e2fsprogs"}} {
		if _, err := exec.LookPath(need.program); err != nil {
			t.Skipf("needs %s (apt-get install %s)", need.program, need.pkg)
		}
	}
}

// oddBox has what look looks at.
func oddBox(t *testing.T, c *container) {
	t.Helper()
	root := filepath.Join(c.dir, "rootfs")
	odd(t, root)
	for _, name := range []string{"tail", "rm", "blockdev", "umount", "sync", "mkdir"} {
		_ = os.Symlink("busybox", filepath.Join(root, "bin", name))
	}
	for _, set := range []*[]string{&c.spec.Process.Capabilities.Bounding, &c.spec.Process.Capabilities.Effective, &c.spec.Process.Capabilities.Permitted} {
		*set = append(*set, "CAP_DAC_OVERRIDE")
	}
}

// TestDiskSlots: a container that comes into a machine which runs has its root as an image and
// disks as the first has, as many as there are slots for; with it they go, and the next has
// the slot. Of a pod whose guest booted, with its drivers or without as a template, and of one
// whose is a copy.
func TestDiskSlots(t *testing.T) {
	runtimeProgram(t)
	needImages(t)
	if !inLinux(t, lab.Machine{Memory: 3072}) {
		return
	}
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, []byte("begin"), 0o600))
	must(t, os.Truncate(image, 1<<20))
	for _, use := range []string{"kept", "copied", "off"} {
		if use != "kept" && !slow(t) {
			continue
		}
		pod := box(t, "sleep 1000")
		pod.spec.Annotations = map[string]string{
			"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod", "dev.bulkhead.vm.disk-slots": "2",
		}
		t.Cleanup(func() {
			for _, id := range []string{"a", "b", "c", "pod"} {
				finish(t, pod.command("vm", "delete", "--force", id))
			}
		})
		flags := []string{"--isolation", "vm", "--log", filepath.Join(pod.dir, "log")}
		if use == "off" {
			flags = append(flags, "--template", "off")
		}
		if got := pod.left(pod.commandWith(flags, "run", "--detach", "pod")); got.code != 0 {
			t.Fatalf("run the pod: %+v", got)
		}
		if text, _ := os.ReadFile(filepath.Join(pod.dir, "log")); bytes.Contains(text, []byte("use="+use)) != (use != "off") {
			t.Errorf("its template was not %s", use)
		}
		further := func(script string, annotations map[string]string) *container {
			c := member(t, pod, "pod", t.TempDir(), "( "+script+" ) 2>&1", specs.NetworkNamespace)
			oddBox(t, c)
			for name, value := range annotations {
				c.spec.Annotations["dev.bulkhead.vm."+name] = value
			}
			return c
		}
		run := func(c *container, id string) outcome {
			return finish(t, c.commandWith([]string{"--isolation", "vm", "--log", filepath.Join(c.dir, "log"), "--disks", filepath.Dir(image) + "/*"}, "run", id))
		}
		a := further("sleep 1000", map[string]string{"rootfs": "ext4"})
		if got := a.detached("run", "--detach", "a"); got.code != 0 {
			t.Fatalf("run a: %+v", got)
		}
		for _, kind := range []string{"erofs", "ext4,size=100M", "erofs"} {
			if got := run(further(look, map[string]string{"rootfs": kind}), "b"); got.code != 0 || !same(got.out, found) {
				t.Errorf("%s, %s: %+v\nwant %s", use, kind, got, found)
			}
		}
		for _, word := range []string{"first", "again"} {
			before, _ := os.ReadFile(image)
			got := run(further("head -c 5 /dev/disk; echo; printf "+word+" >/dev/disk; stat -c '%F %a' /dev/disk", map[string]string{"disks": image + ":/dev/disk"}), "b")
			if want := string(before[:5]) + "\nblock special file 660\n"; got != (outcome{0, want, ""}) {
				t.Errorf("%s, a disk: %+v, want %q", use, got, want)
			}
			if after, _ := os.ReadFile(image); !bytes.HasPrefix(after, []byte(word)) || len(after) != 1<<20 {
				t.Errorf("%s: the disk holds %.20q", use, after)
			}
		}
		got := run(further("head -c 5 /dev/disk; echo; printf x >/dev/disk; stat -c %a /dev/disk; cat /sys/block/vd*/ro", map[string]string{"disks": image + ":/dev/disk:ro"}), "b")
		if got.code != 0 || !strings.HasPrefix(got.out, "again\n") || !strings.HasSuffix(got.out, "440\n0\n1\n") {
			t.Errorf("%s, a disk to read: %+v", use, got)
		}
		for _, row := range []struct {
			annotations map[string]string
			want        string
		}{
			{map[string]string{"rootfs": "erofs", "disks": image + ":/dev/disk"}, "of the machine's 2 slots for those of its further containers 1 are free (annotation dev.bulkhead.vm.disk-slots)"},
			{map[string]string{"disks": image + ":/dev/disk,/nowhere:/dev/b"}, "/nowhere: no such file or directory"},
		} {
			if got := run(further("true", row.annotations), "b"); got.code != 1 || !strings.Contains(got.err, row.want) {
				t.Errorf("%s, %v: %+v, want %s", use, row.annotations, got, row.want)
			}
		}
		if got := run(further("true", map[string]string{"rootfs": "erofs"}), "b"); got.code != 0 {
			t.Errorf("%s, after refusals: %+v", use, got)
		}
		if got := finish(t, pod.command("vm", "delete", "--force", "a")); got.code != 0 {
			t.Errorf("delete a: %+v", got)
		}
		if got := finish(t, pod.command("vm", "exec", "pod", "ls", "/sys/block")); got != (outcome{0, "", ""}) {
			t.Errorf("%s: disks of containers that are gone: %+v", use, got)
		}
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pod.known("pod").Sandbox.PID))
		for _, name := range files {
			if to, _ := os.Readlink(name); to == image || strings.Contains(to, "/images/") {
				t.Errorf("%s: the machine still has %s", use, to)
			}
		}
		if got := finish(t, pod.command("vm", "delete", "--force", "pod")); got.code != 0 {
			t.Errorf("delete the pod: %+v", got)
		}
	}
	pod := box(t, "sleep 1000")
	t.Cleanup(func() { finish(t, pod.command("vm", "delete", "--force", "pod")) })
	if got := pod.detached("run", "--detach", "pod"); got.code != 0 {
		t.Fatalf("run one without slots: %+v", got)
	}
	c := member(t, pod, "pod", t.TempDir(), "true", specs.NetworkNamespace)
	c.spec.Annotations["dev.bulkhead.vm.rootfs"] = "erofs"
	if got := finish(t, c.command("vm", "run", "a")); got.code != 1 || !strings.Contains(got.err, "made without slots for more disks (annotation dev.bulkhead.vm.disk-slots") {
		t.Errorf("without slots: %+v", got)
	}
}

// TestDisks: a container's root as an image of either kind, its writes on a disk of the host's,
// and disks that it is given; with each of them a machine that boots and one that is a copy.
func TestDisks(t *testing.T) {
	runtimeProgram(t)
	needImages(t)
	if !inLinux(t, lab.Machine{Memory: 3072}) {
		return
	}
	c := box(t, look)
	root := filepath.Join(c.dir, "rootfs")
	oddBox(t, c)
	upper, templates := t.TempDir(), filepath.Join(c.dir, "templates")
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, []byte("begin"), 0o600))
	must(t, os.Truncate(image, 1<<20))
	given := `d=vdb; cat /sys/block/$d/ro; head -c 5 /dev/disk; echo; stat -c '%F %a %u:%g' /dev/disk; printf written >/dev/disk; head -c 7 /dev/disk; cat /sys/block/$d/size
`
	readOnly := `cat /sys/block/vda/ro; head -c 7 /dev/disk; echo; stat -c '%F %a %u:%g' /dev/disk; printf changed >/dev/disk; true
`
	for _, row := range []struct {
		name, rootfs, overlay, disks, script, want string
		use                                        string // of the template
		slow                                       bool
	}{
		{"erofs beneath a disk", "erofs", "dir=" + upper, "", look, found, "kept", false},
		{"erofs, and a disk", "erofs", "", image + ":/dev/disk", given + look, "0\nbegin\nblock special file 660 0:0\nwritten2048\n" + found, "copied", false},
		{"erofs", "erofs", "", "", look, found, "kept", true},
		{"erofs, a copy", "erofs", "", "", look, found, "copied", true},
		{"ext4", "ext4", "", "", look, found, "kept", true},
		{"ext4 beneath an overlay", "ext4,size=100M", "memory", "", look, found, "copied", true},
		{"share beneath a disk", "", "dir=" + upper, "", look, found, "copied", true},
		{"a disk to read", "", "", image + ":/dev/disk:ro", readOnly, "1\nwritten\nblock special file 440 0:0\n", "copied", true},
	} {
		if row.slow && !slow(t) {
			continue
		}
		c.spec.Annotations = map[string]string{"dev.bulkhead.vm.rootfs": row.rootfs, "dev.bulkhead.vm.disks": row.disks}
		c.spec.Process.Args = []string{"sh", "-c", "( " + row.script + " ) 2>&1"}
		log := filepath.Join(c.dir, "log."+row.name)
		flags := []string{"--isolation", "vm", "--template", templates, "--log", log, "--disks", filepath.Dir(image) + "/*"}
		if row.overlay != "" {
			flags = append(flags, "--overlay", row.overlay)
		}
		got := finish(t, c.commandWith(flags, "run", "disk"))
		text, _ := os.ReadFile(log)
		if !same(got.out, row.want) || got.code != 0 || !bytes.Contains(text, []byte("use="+row.use)) {
			t.Errorf("%s: %+v\nwant %s, template %s; log:\n%s", row.name, got, row.want, row.use, text)
		}
		for _, name := range []string{"new", "odd/dir/sub"} {
			if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
				t.Errorf("%s: %s is on the host", row.name, name)
			}
		}
	}
	if text, err := os.ReadFile(image); err != nil || !bytes.HasPrefix(text, []byte("written\x00")) || len(text) != 1<<20 {
		t.Errorf("the disk holds %.20q, %d bytes, %v", text, len(text), err)
	}
	for _, dir := range []string{upper, "/var/lib/bulkhead/images"} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}
