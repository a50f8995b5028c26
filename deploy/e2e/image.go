package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"bulkhead/deploy/archive"
)

// images gives the cluster's containerd the images that the checks run.
func (c *cluster) images() error {
	box, err := archive.Busybox("docker.io/library/box:1")
	if err != nil {
		return err
	}
	fetch := filepath.Join(c.dir, "fetch")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", fetch, "./deploy/e2e/fetch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build fetch: %w\n%s", err, out)
	}
	box.Files = append(box.Files, archive.File{Name: "bin/fetch", Source: fetch, Mode: 0o755})
	pause := *box
	pause.Name, pause.Entry = pauseImage, []string{"sleep", "1000000000"}
	program := func(name string) *archive.Image {
		return &archive.Image{Name: "docker.io/library/" + name + ":1", Entry: []string{"/" + name},
			Files: []archive.File{{Name: name, Source: c.program(name), Mode: 0o755}, {Name: "tmp/", Mode: 0o1777}, {Name: "etc/", Mode: 0o755}}}
	}
	for n, i := range []*archive.Image{box, &pause, program("coredns"), program("metrics-server")} {
		path := filepath.Join(c.dir, fmt.Sprintf("image.%d.tar", n))
		if err := i.Write(path); err != nil {
			return fmt.Errorf("image %s: %w", i.Name, err)
		}
		if out, err := c.ctr("-n", "k8s.io", "image", "import", path).CombinedOutput(); err != nil {
			return fmt.Errorf("import image %s: %w\n%s", i.Name, err, out)
		}
		_ = os.Remove(path)
	}
	return nil
}

const pauseImage = "docker.io/library/pause:1"
