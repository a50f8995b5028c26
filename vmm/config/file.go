package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"
)

// Words that a file has and the command line says otherwise.
const (
	kernelWord  = "kernel"
	commandWord = "command"
)

// ReadFile sets what the file at path says and f has not been told: a word that
// the command line gave is left as it is. f is what m.Flags filled. Relative
// paths in the file are the caller's, as on the command line.
func (m *Machine) ReadFile(path string, f *pflag.FlagSet) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("machine file: %w", err)
	}
	words, err := parse(filepath.Ext(path), b)
	if err == nil {
		err = m.apply(words, f)
	}
	if err != nil {
		return fmt.Errorf("machine file %s: %w", path, err)
	}
	return nil
}

// parse reads the words of a file: each has one value or several.
func parse(ext string, b []byte) (map[string][]string, error) {
	raw := map[string]any{}
	switch ext {
	case ".json":
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&raw); err != nil {
			return nil, err
		}
		if _, err := d.Token(); err != io.EOF {
			return nil, fmt.Errorf("more than one JSON value")
		}
	case ".toml":
		if err := toml.Unmarshal(b, &raw); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("its name ends in %q; .toml and .json are known", ext)
	}
	words := map[string][]string{}
	for name, v := range raw {
		list, err := values(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		words[name] = list
	}
	return words, nil
}

func values(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case bool:
		return []string{strconv.FormatBool(v)}, nil
	case int64:
		return []string{strconv.FormatInt(v, 10)}, nil
	case json.Number:
		return []string{v.String()}, nil
	case []any:
		var list []string
		for _, item := range v {
			if _, deeper := item.([]any); deeper {
				return nil, fmt.Errorf("a list within a list")
			}
			one, err := values(item)
			if err != nil {
				return nil, err
			}
			list = append(list, one...)
		}
		return list, nil
	}
	return nil, fmt.Errorf("%v is not a text, a number, true or false, or a list of these", v)
}

func (m *Machine) apply(words map[string][]string, f *pflag.FlagSet) error {
	for _, name := range slices.Sorted(maps.Keys(words)) {
		list := words[name]
		switch name {
		case kernelWord:
			if len(list) != 1 {
				return fmt.Errorf("kernel: one path")
			}
			if m.Kernel == "" {
				m.Kernel = list[0]
			}
			continue
		case commandWord:
			if len(m.Command) == 0 {
				m.Command = list
			}
			continue
		}
		word := f.Lookup(name)
		if word == nil || outside[name] {
			return fmt.Errorf("%s: no such word; they are those of `vmm boot --help`, kernel and command", name)
		}
		if word.Changed {
			continue
		}
		for _, v := range list {
			if err := word.Value.Set(v); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// outside are flags of a program and not of a machine.
var outside = map[string]bool{"help": true, "config": true}
