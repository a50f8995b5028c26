package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// configFile is read if it is there. It is weaker than flags and annotations.
const configFile = "/etc/bulkhead/config.toml"

// readConfig reads the settings that the file may have. They are few and flat,
// so that the TOML understood here is `key = "value"`, `key = true` and comments.
func (a *app) readConfig() error {
	path := a.config
	if path == "" {
		path = configFile
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		key, value, err := parseSetting(lines.Text())
		if err == nil && key != "" {
			err = a.set(key, value)
		}
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", path, n, err)
		}
	}
	return lines.Err()
}

// set stores a setting as a default.
func (a *app) set(key, value string) error {
	switch key {
	case "isolation":
		a.rt.DefaultIsolation = value
	case "platform":
		a.rt.DefaultPlatform = value
	case "overlay":
		a.rt.DefaultOverlay = value
	case "template":
		a.rt.DefaultTemplate = value
	case "debug":
		if value != "true" && value != "false" {
			return fmt.Errorf("debug: %q is neither true nor false", value)
		}
		a.rt.Debug = a.rt.Debug || value == "true"
	default:
		return fmt.Errorf("%q is unknown (isolation, platform, overlay, template, debug)", key)
	}
	return nil
}

// parseSetting reads one line; an empty key says that there is nothing on it.
func parseSetting(line string) (key, value string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return "", "", fmt.Errorf("%q is not key = value", line)
	}
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if rest, quoted := strings.CutPrefix(value, `"`); quoted {
		var after string
		if value, after, ok = strings.Cut(rest, `"`); !ok {
			return "", "", fmt.Errorf("%s: the string has no end", key)
		}
		if after = strings.TrimSpace(after); after != "" && after[0] != '#' {
			return "", "", fmt.Errorf("%s: %q after the string", key, after)
		}
		if strings.Contains(value, `\`) {
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
