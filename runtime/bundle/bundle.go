// Package bundle reads OCI bundles: config.json parsed once into a checked
// specification, with every complaint naming the file and the field. It follows
// the OCI runtime specification 1.0 to 1.3. It looks at the host's file system
// (the rootfs and the sources of bind mounts have to be there) and changes nothing.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/runtime/spec"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxConfig bounds config.json; engines' are some 20 KiB.
const maxConfig = 8 << 20 // bytes

// Bundle is a checked bundle. In Spec, Root.Path and the sources of bind mounts
// are absolute; Process, Root and Linux are there.
type Bundle struct {
	Dir  string
	Spec *specs.Spec
}

// fieldError is a complaint about one field.
type fieldError struct{ field, problem string }

func (e *fieldError) Error() string { return e.field + ": " + e.problem }

func complain(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}

// Load reads and checks dir/config.json and what it names.
func Load(dir string) (*Bundle, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Dir: abs}
	if b.Spec, err = b.read(); err != nil {
		return nil, err
	}
	if err := Check(b.Spec); err != nil {
		return nil, fmt.Errorf("%s: %w", b.file(), err)
	}
	if err := b.resolve(); err != nil {
		return nil, fmt.Errorf("%s: %w", b.file(), err)
	}
	return b, nil
}

// file is config.json's name on one line, whatever the directory is called.
func (b *Bundle) file() string { return OneLine(filepath.Join(b.Dir, "config.json")) }

// OneLine quotes a path that would break or blur a line of output.
func OneLine(path string) string {
	for _, r := range path {
		if r < ' ' || r == 0x7f || r == '"' || r == '\ufffd' {
			return fmt.Sprintf("%q", path)
		}
	}
	return path
}

func (b *Bundle) read() (*specs.Spec, error) {
	info, err := os.Stat(b.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("bundle %s: no such directory", OneLine(b.Dir))
	case err != nil:
		return nil, fmt.Errorf("bundle %s: %w", OneLine(b.Dir), cause(err))
	case !info.IsDir():
		return nil, fmt.Errorf("bundle %s: not a directory", OneLine(b.Dir))
	}
	data, err := readFile(filepath.Join(b.Dir, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.file(), cause(err))
	}
	s, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.file(), err)
	}
	return s, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("is larger than %d bytes", maxConfig)
	}
	return data, err
}

// cause drops the operation and the path, which the caller's message names.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Parse decodes a specification. Unknown fields are ignored, as the
// specification's "Extensibility" demands.
func Parse(data []byte) (*specs.Spec, error) {
	s, err := spec.Parse(data)
	return s, explain(data, err)
}

// ParseProcess decodes the file that exec --process names.
func ParseProcess(data []byte) (*specs.Process, error) {
	p := new(specs.Process)
	if err := explain(data, json.Unmarshal(data, p)); err != nil {
		return nil, err
	}
	return p, nil
}

// ReadProcess reads and checks a process file.
func ReadProcess(path string) (*specs.Process, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", OneLine(path), cause(err))
	}
	p, err := ParseProcess(data)
	if err == nil {
		err = CheckProcess(p)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", OneLine(path), err)
	}
	return p, nil
}

// explain says of an error of encoding/json where it is, in words for people.
func explain(data []byte, err error) error {
	var (
		syntax   *json.SyntaxError
		mistyped *json.UnmarshalTypeError
	)
	switch {
	case err == nil:
		return nil
	case len(strings.TrimSpace(string(data))) == 0:
		return errors.New("is empty")
	case errors.As(err, &syntax):
		line, column := position(data, syntax.Offset)
		return fmt.Errorf("line %d, column %d: %s", line, column, syntax.Error())
	case errors.As(err, &mistyped):
		field := mistyped.Field
		if field == "" {
			field = "the whole"
		}
		return complain(field, "a JSON %s where %s is expected", mistyped.Value, article(mistyped.Type.Kind().String()))
	}
	return err
}

// article names a Go kind for people.
func article(kind string) string {
	switch {
	case kind == "struct" || kind == "map" || kind == "ptr":
		return "an object"
	case kind == "slice":
		return "an array"
	case kind == "bool":
		return "true or false"
	case kind == "string":
		return "a string"
	case strings.HasPrefix(kind, "uint"):
		return "a number from 0 (" + kind + ")"
	}
	return "a number (" + kind + ")"
}

// position is where byte offset stands, counted from 1.
func position(data []byte, offset int64) (line, column int) {
	before := string(data[:min(offset, int64(len(data)))])
	line = strings.Count(before, "\n") + 1
	return line, len(before) - (strings.LastIndexByte(before, '\n') + 1)
}

// resolve makes paths absolute and looks whether they exist.
func (b *Bundle) resolve() error {
	root := b.absolute(b.Spec.Root.Path)
	info, err := os.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return complain("root.path", "%s: no such directory", OneLine(root))
	case err != nil:
		return complain("root.path", "%s: %v", OneLine(root), cause(err))
	case !info.IsDir():
		return complain("root.path", "%s: not a directory", OneLine(root))
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return complain("root.path", "%v", err)
	}
	b.Spec.Root.Path = root

	for i := range b.Spec.Mounts {
		m := &b.Spec.Mounts[i]
		if !IsBind(m) {
			continue
		}
		source, err := filepath.EvalSymlinks(b.absolute(m.Source))
		if err != nil {
			return complain(fmt.Sprintf("mounts[%d].source", i), "%s: %v", OneLine(m.Source), cause(err))
		}
		m.Source = source
	}
	for i, ns := range b.Spec.Linux.Namespaces {
		if ns.Path == "" {
			continue
		}
		if err := isNamespace(ns.Path, ns.Type); err != nil {
			return complain(fmt.Sprintf("linux.namespaces[%d].path", i), "%s: %v", OneLine(ns.Path), cause(err))
		}
	}
	return nil
}

// kinds are the namespaces as NS_GET_NSTYPE tells them (ioctl_ns(2)).
var kinds = map[specs.LinuxNamespaceType]int{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.MountNamespace: unix.CLONE_NEWNS,
	specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS, specs.UserNamespace: unix.CLONE_NEWUSER,
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.TimeNamespace: unix.CLONE_NEWTIME,
}

// isNamespace demands one of a type: "The runtime MUST generate an error if path is not
// associated with a namespace of type type" (config-linux.md, "Namespaces").
func isNamespace(path string, kind specs.LinuxNamespaceType) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	is, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || is != kinds[kind] {
		return fmt.Errorf("is no %s namespace", kind)
	}
	return nil
}

func (b *Bundle) absolute(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(b.Dir, path)
}

// IsBind says whether m shows a file or directory of the host's: as runc has
// it, the options decide before the type.
func IsBind(m *specs.Mount) bool {
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return m.Type == "bind"
}
