package lab

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"bulkhead/kernels/cache"
	"bulkhead/kernels/debian"
)

// kernelPackage is Debian's kernel for real machines. Its cloud kernel, which
// starts no faster here, has no 9p, by which directories are shared.
const kernelPackage = "linux-image-amd64"

//go:embed init.sh
var initScript string

// early are the modules that are in the initramfs and loaded by init.sh. All
// others are shared with the machine and load on demand: by modprobe, by mount,
// or when a device below is opened.
var early = []string{"virtio_pci", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay", "kvm-amd"}

// nodes are devices whose modules load when they are opened, which depmod would
// have udev make (Documentation/admin-guide/devices.txt).
const nodes = `net/tun 10 200
fuse 10 229
loop-control 10 237
vhost-net 10 238
vhost-vsock 10 241
`

// base is what all machines have in common.
type base struct {
	kernel    string // ELF
	modules   string // directory
	initramfs string // an uncompressed cpio
	busybox   string
}

// fetchBase makes the base, or finds it in the cache.
func fetchBase(ctx context.Context) (base, error) {
	kernel, err := debian.FetchKernel(ctx, kernelPackage)
	if err != nil {
		return base{}, err
	}
	busybox, err := debian.Fetch(ctx, "busybox-static")
	if err != nil {
		return base{}, err
	}
	code, _ := injection(0)
	key := cache.Key(append([]string{kernel.Release, kernel.Version, busybox.Version, initScript, string(hold), string(code)}, append(early, nodes)...)...)
	dir, err := cache.Fill(ctx, "lab", key, func(dir string) error { return makeInitramfs(dir, kernel, busybox) })
	if err != nil {
		return base{}, err
	}
	elf, err := kernel.ELF(ctx)
	if err != nil {
		return base{}, err
	}
	return base{kernel: elf, modules: kernel.Modules, initramfs: filepath.Join(dir, "initramfs.cpio"), busybox: filepath.Join(busybox.Dir, "bin/busybox")}, nil
}

// makeInitramfs writes dir/initramfs.cpio: busybox, the early modules, init.sh.
func makeInitramfs(dir string, kernel debian.Kernel, busybox debian.Package) error {
	files := map[string]string{"/bin/busybox": filepath.Join(busybox.Dir, "bin/busybox")}
	order, err := kernel.Order(early...)
	if err != nil {
		return err
	}
	texts := map[string]string{}
	for i, file := range order {
		order[i] = path.Base(file)
		files["/lab/"+order[i]] = filepath.Join(kernel.Modules, file)
	}
	module, err := os.ReadFile(files["/lab/"+kvmAMD])
	if err != nil {
		return fmt.Errorf("lab: make the initramfs: %w", err)
	}
	// One that Debian built otherwise is loaded as it is: guests run, and now and then one is lost.
	if module, err = gentle(module); err == nil {
		delete(files, "/lab/"+kvmAMD)
		texts["/lab/"+kvmAMD] = string(module)
	}
	maps.Copy(texts, map[string]string{
		"/init":        initScript,
		"/lab/modules": strings.Join(order, "\n") + "\n",
		"/lab/nodes":   nodes,
		"/lab/hold":    string(hold),
	})
	out, err := os.Create(filepath.Join(dir, "initramfs.cpio"))
	if err != nil {
		return fmt.Errorf("lab: make the initramfs: %w", err)
	}
	defer out.Close()
	// The kernel opens it as init's standard streams.
	console := cpio.CharDev("dev/console", 0o600, 5, 1)
	if err := writeArchive(out, files, texts, console); err != nil {
		return fmt.Errorf("lab: make the initramfs: %w", err)
	}
	return out.Close()
}

// image writes the machine's initramfs to a temporary file: the base's, and the
// job's own part behind it, for the kernel unpacks one after the other.
func (m Machine) image(base base, job Job) (string, error) {
	files := map[string]string{}
	for inside, here := range job.Files {
		files["/lab/files/"+strings.TrimPrefix(path.Clean("/"+inside), "/")] = here
	}
	texts := map[string]string{"/lab/job": job.script(), "/lab/mounts": m.mounts(job, base)}
	out, err := os.CreateTemp("", "bulkhead-lab-*.cpio")
	if err != nil {
		return "", fmt.Errorf("lab: make the job's image: %w", err)
	}
	defer out.Close()
	err = copyFile(out, base.initramfs)
	if err == nil {
		err = writeArchive(out, files, texts)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		os.Remove(out.Name())
		return "", fmt.Errorf("lab: make the job's image: %w", err)
	}
	return out.Name(), nil
}

func copyFile(to io.Writer, name string) error {
	from, err := os.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(to, from)
	return err
}

// script is /lab/job, for /bin/sh.
func (j Job) script() string {
	var script strings.Builder
	fmt.Fprintf(&script, "export %s=1\n", Variable)
	for _, variable := range j.Env {
		name, value, _ := strings.Cut(variable, "=")
		fmt.Fprintf(&script, "export %s=%s\n", name, quote(value))
	}
	if j.Dir != "" {
		fmt.Fprintf(&script, "cd %s || exit 127\n", quote(j.Dir))
	}
	script.WriteString("exec")
	for _, word := range j.Cmd {
		script.WriteString(" " + quote(word))
	}
	return script.String() + "\n"
}

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// writeArchive writes a cpio of files (path inside → path here), of texts
// (path inside → contents; executable, for init is one) and of more. Parents come before what is in them.
func writeArchive(w io.Writer, files, texts map[string]string, more ...cpio.Record) error {
	var archive bytes.Buffer
	records := cpio.Newc.Writer(&archive)
	made := map[string]bool{"/": true}
	var all []cpio.Record
	var parents func(name string)
	parents = func(name string) {
		if dir := path.Dir(name); !made[dir] {
			parents(dir)
			made[dir] = true
			all = append(all, cpio.Directory(dir[1:], 0o755))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		contents, err := os.ReadFile(files[name])
		if err != nil {
			return err
		}
		info, err := os.Stat(files[name])
		if err != nil {
			return err
		}
		parents(name)
		all = append(all, cpio.StaticFile(name[1:], string(contents), uint64(info.Mode().Perm())))
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		parents(name)
		all = append(all, cpio.StaticFile(name[1:], texts[name], 0o755))
	}
	for _, record := range more {
		parents("/" + record.Name)
		all = append(all, record)
	}
	if err := cpio.WriteRecords(records, all); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(records); err != nil {
		return err
	}
	_, err := w.Write(archive.Bytes())
	return err
}
