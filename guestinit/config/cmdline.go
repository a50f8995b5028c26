package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// Prefix of our words on the kernel's command line. The kernel takes a word with
// a dot for a module's parameter, and does not hand it to init.
const Prefix = "bulkhead."

// Words are what the command line may say, by name, the value last. A value with
// blanks stands in double quotes, as the kernel has it: bulkhead.run="ls -l".
var Words = []Word{
	{"hostname", "NAME", "the guest's name", func(c *Config, v string) error { c.Hostname = v; return nil }},
	{"run", "COMMAND", "run it and power off; quotes group, as in a shell", setRun},
	{"env", "NAME=VALUE", "add to the environment; may be repeated", func(c *Config, v string) error { c.Env = append(c.Env, v); return nil }},
	{"cwd", "DIR", "where the command starts", func(c *Config, v string) error { c.Cwd = v; return nil }},
	{"root", "DIR", "what becomes / once all is mounted", func(c *Config, v string) error { c.Root = v; return nil }},
	{"console", "TTY", "the command's terminal", func(c *Config, v string) error { c.Console = v; return nil }},
	{"share", "TAG:DIR[:ro]", "mount a virtio-fs share; may be repeated", setShare},
	{"disk", "SOURCE:DIR:TYPE[:ro]", "mount a disk; may be repeated", setDisk},
	{"ip", "ADDRESS/BITS[,GATEWAY]", "configure eth0", setIP},
	{"dns", "ADDRESS", "ask this name server; may be repeated", setDNS},
	{"debug", "", "tell the init's steps and their times", func(c *Config, _ string) error { c.Debug = true; return nil }},
}

// Word is one of Words.
type Word struct {
	Name, Value, Does string
	set               func(*Config, string) error
}

// ParseCommandLine lets the words of a kernel's command line win over c. Words
// of others are passed over; what follows "--" is the init's own and no word.
func (c *Config) ParseCommandLine(line string) error {
	for _, word := range splitLine(line) {
		if word == "--" {
			break
		}
		rest, ours := strings.CutPrefix(word, Prefix)
		if !ours {
			continue
		}
		if err := c.setWord(rest); err != nil {
			return fmt.Errorf("kernel command line: %s%s: %w", Prefix, rest, err)
		}
	}
	if err := c.Check(); err != nil {
		return fmt.Errorf("kernel command line: %w", err)
	}
	return nil
}

func (c *Config) setWord(word string) error {
	name, value, given := strings.Cut(word, "=")
	for _, w := range Words {
		if w.Name != name {
			continue
		}
		if given != (w.Value != "") {
			return fmt.Errorf("want %s%s", name, strings.TrimSuffix("="+w.Value, "="))
		}
		return w.set(c, value)
	}
	return fmt.Errorf("no such word")
}

// splitLine follows lib/cmdline.c, next_arg: blanks divide, double quotes hold
// together, and are dropped where they surround a word or a value.
func splitLine(line string) []string {
	var words []string
	for line = strings.TrimLeft(line, blanks); line != ""; line = strings.TrimLeft(line, blanks) {
		quoted, end := false, len(line)
		for i, r := range line {
			if r == '"' {
				quoted = !quoted
			} else if !quoted && strings.ContainsRune(blanks, r) {
				end = i
				break
			}
		}
		words = append(words, unquote(line[:end]))
		line = line[end:]
	}
	return words
}

const blanks = " \t\n"

func unquote(word string) string {
	if rest, ok := strings.CutPrefix(word, `"`); ok {
		return strings.TrimSuffix(rest, `"`)
	}
	if name, value, ok := strings.Cut(word, `="`); ok {
		return name + "=" + strings.TrimSuffix(value, `"`)
	}
	return word
}

func setRun(c *Config, v string) error {
	args, err := splitCommand(v)
	if err == nil && len(args) == 0 {
		err = fmt.Errorf("an empty command")
	}
	c.Args = args
	return err
}

// splitCommand divides at blanks outside of single quotes (the kernel has no way to
// pass a double one) and after no backslash.
func splitCommand(s string) ([]string, error) {
	var args []string
	var arg strings.Builder
	var begun, quoted, escaped bool
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case escaped:
			arg.WriteByte(b)
			escaped = false
		case b == '\'':
			quoted, begun = !quoted, true
		case quoted:
			arg.WriteByte(b)
		case b == '\\':
			escaped, begun = true, true
		case strings.IndexByte(blanks, b) >= 0:
			if begun {
				args = append(args, arg.String())
				arg.Reset()
			}
			begun = false
		default:
			arg.WriteByte(b)
			begun = true
		}
	}
	if quoted || escaped {
		return nil, fmt.Errorf("a quote that does not end")
	}
	if begun {
		args = append(args, arg.String())
	}
	return args, nil
}

func setShare(c *Config, v string) error {
	fields := strings.Split(v, ":")
	if len(fields) < 2 || len(fields) > 3 || len(fields) == 3 && fields[2] != "ro" {
		return fmt.Errorf("want TAG:DIR[:ro]")
	}
	c.Mounts = append(c.Mounts, Mount{fields[0], fields[1], "virtiofs", fields[2:]})
	return nil
}

func setDisk(c *Config, v string) error {
	// The source may hold a colon of its own, "disk:data".
	serial, rest := "", v
	if cut, ok := strings.CutPrefix(v, DiskBySerial); ok {
		serial, rest = DiskBySerial, cut
	}
	fields := strings.Split(rest, ":")
	if len(fields) < 3 || len(fields) > 4 || len(fields) == 4 && fields[3] != "ro" {
		return fmt.Errorf("want SOURCE:DIR:TYPE[:ro]")
	}
	c.Mounts = append(c.Mounts, Mount{serial + fields[0], fields[1], fields[2], fields[3:]})
	return nil
}

// DiskBySerial begins a Mount's Source that is a disk's serial, and no path.
const DiskBySerial = "disk:"

func setIP(c *Config, v string) error {
	addr, gateway, routed := strings.Cut(v, ",")
	prefix, err := netip.ParsePrefix(addr)
	if err != nil {
		return err
	}
	eth0 := Interface{Name: "eth0", Addresses: []netip.Prefix{prefix}}
	if routed {
		via, err := netip.ParseAddr(gateway)
		if err != nil {
			return err
		}
		eth0.Routes = []Route{{Gateway: via}}
	}
	c.Network.Interfaces = append(c.Network.Interfaces, eth0)
	return nil
}

func setDNS(c *Config, v string) error {
	addr, err := netip.ParseAddr(v)
	c.Network.Nameservers = append(c.Network.Nameservers, addr)
	return err
}
