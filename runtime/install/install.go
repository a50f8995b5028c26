// Package install makes engines know bulkhead: it writes what docker, containerd and
// Podman want to read of a runtime into their configuration, beside what stands there,
// and takes the same away again. Everything is planned before anything is written, as
// whole new contents of files, which people see as a diff first.
//
// It knows texts and files and nothing of containers. TOML is skimmed by a reader of its
// own (toml.go): a library's would cost each start of bulkhead half a millisecond.
package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"bulkhead/runtime/spelling"
)

// The names that engines call us by; vm is that with --isolation=vm.
const (
	handler   = "bulkhead"
	handlerVM = "bulkhead-vm"
)

// Host is where to install what.
type Host struct {
	Destdir string // stands before every path that is read or written: "" is the host itself
	Program string // bulkhead's path, as engines shall call it
	Path    string // of directories, colons between them, where engines' programs are looked for
}

// content is what a file holds, or that there is no file.
type content struct {
	there bool
	text  string
}

// An edit gives a file's new content, and what a person should know of it.
type edit func(h Host, old content) (new content, notes []string, err error)

type file struct {
	path        string
	put, remove edit
}

type engine struct {
	name    string
	dir     string // of its configuration: an engine with one, or with its program, is there
	program string
	files   []file
	put     string // what is to be done when the files are written
	removed string
}

var engines = []engine{
	{
		"docker", "/etc/docker", "dockerd",
		[]file{{"/etc/docker/daemon.json", dockerPut, dockerRemove}},
		"restart docker (systemctl restart docker); then: docker run --rm --runtime=bulkhead IMAGE",
		"restart docker (systemctl restart docker)",
	},
	{
		"containerd", "/etc/containerd", "containerd",
		[]file{
			{vmSettings, settingsPut, settingsRemove},
			{"/etc/containerd/config.toml", containerdPut, containerdRemove},
		},
		"restart containerd (systemctl restart containerd); Kubernetes' RuntimeClass has handler: bulkhead, or bulkhead-vm",
		"restart containerd (systemctl restart containerd)",
	},
	{
		"podman", "/etc/containers", "podman",
		[]file{{"/etc/containers/containers.conf.d/bulkhead.conf", podmanPut, podmanRemove}},
		"nothing is to be restarted: podman --runtime=bulkhead run --rm IMAGE (in a machine: --runtime-flag=isolation=vm)",
		"nothing is to be restarted",
	},
}

// Engines are the names of those that can be told of bulkhead.
func Engines() []string {
	var names []string
	for _, e := range engines {
		names = append(names, e.name)
	}
	return names
}

// Plan is what would be done.
type Plan struct {
	Engines []string // those that it is about
	Changes []Change // none: everything stands as it should
	Notes   []string // what a person should know, a line each
	Next    []string // what is to be done afterwards, a line each
}

// Install plans how the engines get to know bulkhead; with no names, those that are there.
// An error names the file that cannot be changed, and why.
func (h Host) Install(names []string) (*Plan, error) {
	if !filepath.IsAbs(h.Program) || !utf8.ValidString(h.Program) || strings.ContainsFunc(h.Program, unicode.IsControl) {
		return nil, fmt.Errorf("%q is no absolute path to call bulkhead by", h.Program)
	}
	return h.plan(names, func(e engine, f file) (edit, string) { return f.put, e.put })
}

// Uninstall plans how they forget it.
func (h Host) Uninstall(names []string) (*Plan, error) {
	return h.plan(names, func(e engine, f file) (edit, string) { return f.remove, e.removed })
}

func (h Host) plan(names []string, of func(engine, file) (edit, string)) (*Plan, error) {
	chosen, err := h.choose(names)
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	for _, e := range chosen {
		p.Engines = append(p.Engines, e.name)
		changed, next := false, ""
		for _, f := range e.files {
			edit, todo := of(e, f)
			path := filepath.Join(h.Destdir, f.path)
			c, err := read(path)
			if err != nil {
				return nil, err
			}
			var notes []string
			if c.new, notes, err = edit(h, c.old); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			for _, note := range notes {
				p.Notes = append(p.Notes, path+": "+note)
			}
			if c.new != c.old {
				p.Changes = append(p.Changes, c)
				changed, next = true, todo
			}
		}
		if changed {
			p.Next = append(p.Next, e.name+": "+next)
		}
	}
	return p, nil
}

// choose gives the engines of these names, or those that are there.
func (h Host) choose(names []string) ([]engine, error) {
	for _, name := range names {
		if !slices.Contains(Engines(), name) {
			if near := spelling.Nearest(name, Engines()); near != "" {
				return nil, fmt.Errorf("%q is no engine known here; is %s meant?", name, near)
			}
			return nil, fmt.Errorf("%q is no engine known here (%s)", name, strings.Join(Engines(), ", "))
		}
	}
	var chosen []engine
	for _, e := range engines {
		if slices.Contains(names, e.name) || len(names) == 0 && h.has(e) {
			chosen = append(chosen, e)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no engine is here: neither a directory of theirs in %s nor their programs; name those that you want (%s)",
			filepath.Join(h.Destdir, "/etc"), strings.Join(Engines(), ", "))
	}
	return chosen, nil
}

func (h Host) has(e engine) bool {
	if info, err := os.Stat(filepath.Join(h.Destdir, e.dir)); err == nil && info.IsDir() {
		return true
	}
	for _, dir := range filepath.SplitList(h.Path) {
		if info, err := os.Stat(filepath.Join(h.Destdir, dir, e.program)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// largest is what a configuration of an engine's has at most, in bytes: many times what
// any has, and little enough to read whole.
const largest = 1 << 20

// read begins a change by the file as it is now.
func read(path string) (Change, error) {
	c := Change{Path: path}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, nil
	case err != nil:
		return c, err
	case info.Mode()&fs.ModeSymlink != 0:
		return c, fmt.Errorf("%s: is a symbolic link; whose file it leads to should be changed is for you to say", path)
	case !info.Mode().IsRegular():
		return c, fmt.Errorf("%s: is no regular file", path)
	case info.Size() > largest:
		return c, fmt.Errorf("%s: has %d bytes; a configuration has %d at most", path, info.Size(), largest)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	c.old = content{true, string(text)}
	return c, nil
}
