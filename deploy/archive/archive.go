// Package archive makes container images of a single layer as archives that `docker load` and
// `ctr image import` read (moby, image/spec/v1.2.md), of files that are there already: what a
// static program needs is no more than itself.
package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
)

// Image is an image of one layer.
type Image struct {
	Name  string // with its tag
	Files []File
	Entry []string
}

// File is one of a layer's, by its path without the first slash: the content of the file
// Source, or Text; a symbolic link to Link; a directory if Name ends in a slash.
type File struct {
	Name, Source, Text, Link string
	Mode                     int64
}

// Busybox is Debian's static busybox with its applets: a shell where nothing else is.
func Busybox(name string) (*Image, error) {
	const busybox = "/bin/busybox"
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, err
	}
	i := &Image{Name: name, Entry: []string{"sh"}, Files: []File{
		{Name: "bin/busybox", Source: busybox, Mode: 0o755},
		{Name: "etc/passwd", Text: "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n", Mode: 0o644},
		{Name: "etc/group", Text: "root:x:0:\nuser:x:1000:\n", Mode: 0o644},
		{Name: "root/", Mode: 0o700}, {Name: "tmp/", Mode: 0o1777}, {Name: "proc/", Mode: 0o755}, {Name: "sys/", Mode: 0o755}, {Name: "dev/", Mode: 0o755},
	}}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			i.Files = append(i.Files, File{Name: "bin/" + applet, Link: "busybox"})
		}
	}
	return i, nil
}

// Write makes the archive at path.
func (i *Image) Write(path string) error {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, f := range i.Files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Typeflag: tar.TypeReg}
		content := []byte(f.Text)
		switch {
		case strings.HasSuffix(f.Name, "/"):
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		case f.Source != "":
			var err error
			if content, err = os.ReadFile(f.Source); err != nil {
				return err
			}
		}
		h.Size = int64(len(content))
		if err := add(w, h, content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	sum := sha256.Sum256(layer.Bytes())
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": i.Entry, "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close() // a second time where it was closed; an error comes from the first
	w = tar.NewWriter(out)
	for _, part := range []struct {
		name    string
		content []byte
	}{{"layer.tar", layer.Bytes()}, {"config.json", config}, {"manifest.json", manifest}} {
		h := &tar.Header{Name: part.name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(part.content))}
		if err := add(w, h, part.content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Close()
}

func add(w *tar.Writer, h *tar.Header, content []byte) error {
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
