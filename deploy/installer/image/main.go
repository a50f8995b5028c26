// Command image writes the image that deploy/installer's DaemonSet runs, as an archive for
// `docker load` or `ctr image import` (make image).
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"bulkhead/deploy/archive"
)

func main() {
	name := pflag.String("name", "docker.io/library/bulkhead-installer:1", "the image's name, with its tag")
	from := pflag.String("from", "bin", "the directory with the programs, as make build and make kernel leave it")
	installer := pflag.String("installer", "bin/installer", "the installer's program")
	out := pflag.StringP("output", "o", "out/bulkhead-installer.tar", "the archive")
	pflag.Parse()
	i := &archive.Image{Name: *name, Entry: []string{"/installer"}, Files: []archive.File{{Name: "installer", Source: *installer, Mode: 0o755}, {Name: "tmp/", Mode: 0o1777}}}
	for _, program := range []string{"bulkhead", "containerd-shim-bulkhead-v1", "vmm", "hwtest", "guestinit", "vmlinux"} {
		path := filepath.Join(*from, program)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && program == "vmlinux" {
			fmt.Fprintln(os.Stderr, "image: without a guest kernel, which make kernel builds: there will be no bulkhead-vm")
			continue
		}
		i.Files = append(i.Files, archive.File{Name: "bulkhead/" + program, Source: path, Mode: 0o755})
	}
	err := os.MkdirAll(filepath.Dir(*out), 0o755)
	if err == nil {
		err = i.Write(*out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Println(*out)
}
