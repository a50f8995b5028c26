// Package config reads the settings that stand in a file: what a host's owner wants for
// all containers (/etc/bulkhead/config.toml), or for those of one containerd runtime
// handler (its ConfigPath, or the keys that stand in containerd's own configuration).
// They are weaker than flags and annotations.
package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/runtime/container"
	"bulkhead/runtime/spelling"
)

// File is read if it is there.
const File = "/etc/bulkhead/config.toml"

// setting is a key, and how its value is taken.
type setting struct {
	key string
	set func(*container.Runtime, string) error
}

// oneOf makes a setting that has one of a few values.
func oneOf(key string, field func(*container.Runtime) *string, values ...string) setting {
	return setting{key, func(rt *container.Runtime, v string) error {
		for _, known := range values {
			if v == known {
				*field(rt) = v
				return nil
			}
		}
		return fmt.Errorf("%s: %q is none of %s", key, v, strings.Join(values, ", "))
	}}
}

// yes makes a setting that is true or false.
func yes(key string, set func(*container.Runtime, bool)) setting {
	return setting{key, func(rt *container.Runtime, v string) error {
		if v != "true" && v != "false" {
			return fmt.Errorf("%s: %q is neither true nor false", key, v)
		}
		set(rt, v == "true")
		return nil
	}}
}

var settings = []setting{
	oneOf("isolation", func(rt *container.Runtime) *string { return &rt.DefaultIsolation }, "sentry", "vm", "auto"),
	oneOf("platform", func(rt *container.Runtime) *string { return &rt.DefaultPlatform }, "auto", "kvm", "ptrace"),
	{"overlay", func(rt *container.Runtime, v string) error { // dir=… is judged where it is used
		rt.DefaultOverlay = v
		return nil
	}},
	{"disks", func(rt *container.Runtime, v string) error { // a flag is stronger
		if rt.Disks == "" {
			rt.Disks = v
		}
		return nil
	}},
	{"template", func(rt *container.Runtime, v string) error { // or a directory
		rt.DefaultTemplate = v
		return nil
	}},
	yes("debug", func(rt *container.Runtime, v bool) { rt.Debug = rt.Debug || v }),
}

// handlerSettings are those that a containerd handler's settings may have besides: a
// command has flags for them.
var handlerSettings = append(settings[:len(settings):len(settings)],
	setting{"root", func(rt *container.Runtime, v string) error {
		if !filepath.IsAbs(v) {
			return fmt.Errorf("root: %q is no absolute path", v)
		}
		rt.Root = v
		return nil
	}},
	yes("systemd_cgroup", func(rt *container.Runtime, v bool) { rt.SystemdCgroup = v }),
)

// Read takes the settings of the file path, or of File if path is empty. A file that is
// not there has none.
func Read(path string, rt *container.Runtime) error {
	if path == "" {
		path = File
	}
	err := read(path, rt, settings)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ReadHandler takes the settings of a containerd handler from a file that is named and so
// has to be there.
func ReadHandler(path string, rt *container.Runtime) error { return read(path, rt, handlerSettings) }

// ParseHandler takes them from text; where says of what in complaints.
func ParseHandler(where string, text []byte, rt *container.Runtime) error {
	return parse(where, bytes.NewReader(text), rt, handlerSettings)
}

func read(path string, rt *container.Runtime, known []setting) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return parse(path, f, rt, known)
}

func parse(where string, r io.Reader, rt *container.Runtime, known []setting) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		key, value, err := parseLine(lines.Text())
		if err == nil && key != "" {
			err = set(rt, known, key, value)
		}
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", where, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

func set(rt *container.Runtime, known []setting, key, value string) error {
	names := make([]string, len(known))
	for i, s := range known {
		if names[i] = s.key; s.key == key {
			return s.set(rt, value)
		}
	}
	if near := spelling.Nearest(key, names); near != "" {
		return fmt.Errorf("%q is unknown; is %s meant? (there are %s)", key, near, strings.Join(names, ", "))
	}
	return fmt.Errorf("%q is unknown (%s)", key, strings.Join(names, ", "))
}

// parseLine reads one line; an empty key says that there is nothing on it. The settings
// are few and flat, so that the TOML understood here is `key = "value"`, `key = true` and
// comments.
func parseLine(line string) (key, value string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return "", "", fmt.Errorf("%q is not key = value", line)
	}
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if key == "" {
		return "", "", fmt.Errorf("%q is not key = value", line)
	}
	if value != "" && (value[0] == '"' || value[0] == '\'') { // '…' has no escapes at all (TOML 1.0, "String")
		quote := value[:1]
		rest := value[1:]
		var after string
		if value, after, ok = strings.Cut(rest, quote); !ok {
			return "", "", fmt.Errorf("%s: the string has no end", key)
		}
		if after = strings.TrimSpace(after); after != "" && after[0] != '#' {
			return "", "", fmt.Errorf("%s: %q after the string", key, after)
		}
		if quote == `"` && strings.Contains(value, `\`) {
			return "", "", fmt.Errorf("%s: escapes are not understood here", key)
		}
		return key, value, nil
	}
	value, _, _ = strings.Cut(value, "#")
	value = strings.TrimSpace(value)
	if value != "true" && value != "false" {
		return "", "", fmt.Errorf("%s: %q is neither a quoted string nor true or false", key, value)
	}
	return key, value, nil
}
