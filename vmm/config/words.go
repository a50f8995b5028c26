package config

import (
	"encoding/csv"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"bulkhead/virtio/ratelimit"
	"bulkhead/vmm/boot"
	"bulkhead/vmm/ram"
)

// Size is a number of bytes.
type Size uint64

// units are those of Size; MiB and MB are the same here, as in every VMM.
var units = map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

// Set reads 256M, 6GiB, 1073741824.
func (s *Size) Set(text string) error {
	digits := strings.TrimRight(text, "KMGTiBkmgtb")
	unit := strings.ToUpper(strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text[len(digits):]), "B"), "I"))
	n, err := strconv.ParseUint(digits, 10, 64)
	shift, known := units[unit]
	if err != nil || !known || n > 1<<63>>shift {
		return fmt.Errorf("%q is not a size, as 256M or 6G", text)
	}
	*s = Size(n << shift)
	return nil
}

func (s *Size) String() string {
	for _, u := range []string{"G", "M", "K"} {
		if n := uint64(*s); n != 0 && n%(1<<units[u]) == 0 {
			return strconv.FormatUint(n>>units[u], 10) + u
		}
	}
	return strconv.FormatUint(uint64(*s), 10)
}

// Type is what pflag calls the value of a flag in its help.
func (*Size) Type() string { return "size" }

// Protocol is boot.Protocol by its name.
type Protocol boot.Protocol

var protocols = map[string]boot.Protocol{"auto": 0, "pvh": boot.PVH, "linux64": boot.Linux64}

func (p *Protocol) Set(text string) error {
	v, ok := protocols[text]
	if !ok {
		return fmt.Errorf("%q is not a boot protocol; there are auto, pvh and linux64", text)
	}
	*p = Protocol(v)
	return nil
}

func (p *Protocol) String() string {
	for name, v := range protocols {
		if v == boot.Protocol(*p) {
			return name
		}
	}
	return ""
}

func (*Protocol) Type() string { return "protocol" }

// Backing is ram.Backing.
type Backing ram.Backing

func (b *Backing) Set(text string) error {
	if !slices.Contains(ram.Backings, ram.Backing(text)) {
		return fmt.Errorf("%q is no backing of memory; there are %v", text, ram.Backings)
	}
	*b = Backing(text)
	return nil
}

func (b *Backing) String() string { return string(*b) }
func (*Backing) Type() string     { return "kind" }

// Seccomp is what becomes of a system call off the list: "on" ends the VMM, "log"
// tells the audit log, "off" has no list.
type Seccomp string

func (s *Seccomp) Set(text string) error {
	if text != "on" && text != "off" && text != "log" {
		return fmt.Errorf("%q: give on, off or log", text)
	}
	*s = Seccomp(text)
	return nil
}

func (s *Seccomp) String() string { return string(*s) }
func (*Seccomp) Type() string     { return "mode" }

// Init is which init a guest has: "auto", "guestinit" or "own".
type Init string

func (i *Init) Set(text string) error {
	if text != "auto" && text != "guestinit" && text != "own" {
		return fmt.Errorf("%q: give auto, guestinit or own", text)
	}
	*i = Init(text)
	return nil
}

func (i *Init) String() string { return string(*i) }
func (*Init) Type() string     { return "which" }

// Level is a log level; none said is Warn.
type Level struct{ slog.Level }

func (l *Level) Set(text string) error {
	if err := l.UnmarshalText([]byte(text)); err != nil {
		return fmt.Errorf("%q is not debug, info, warn or error", text)
	}
	l.Level -= slog.LevelWarn
	return nil
}

// Threshold is what slog wants.
func (l Level) Threshold() slog.Level { return l.Level + slog.LevelWarn }

func (l *Level) String() string { return strings.ToLower(l.Threshold().String()) }
func (*Level) Type() string     { return "level" }

// Stream is where a console goes.
type Stream struct {
	Kind  string // stdio, pty, file, none
	Path  string // of a file
	given bool
}

func (s *Stream) Set(text string) error {
	kind, path, ok := strings.Cut(text, "=")
	switch {
	case kind == "file" && ok && path != "", !ok && (kind == "stdio" || kind == "pty" || kind == "none"):
		*s = Stream{kind, path, true}
		return nil
	}
	return fmt.Errorf("%q: give stdio, pty, file=PATH or none", text)
}

func (s *Stream) String() string {
	if s.Kind == "file" {
		return "file=" + s.Path
	}
	return s.Kind
}

func (*Stream) Type() string { return "where" }

// Disk is one --disk.
type Disk struct {
	Path     string
	ReadOnly bool
	ID       string
	Queues   int

	Direct       bool // past the host's page cache
	Writethrough bool // a write is durable before it is answered
}

// Net is one --net.
type Net struct {
	TAP    string
	ID     string
	MAC    net.HardwareAddr
	MTU    int
	Queues int

	// What guestinit gives the guest's end; without an Address nothing.
	Address netip.Prefix
	Gateway netip.Addr
	DNS     netip.Addr
}

// Share is one --share.
type Share struct {
	Tag, Dir string
	ReadOnly bool
	At       string // where guestinit mounts it
}

// Limit is one --rate-limit.
type Limit struct {
	ID string
	ratelimit.Limits
}

// Vsock is --vsock. CID 0 is none.
type Vsock struct {
	CID  uint32
	Path string
}

// fields divides at commas; a value in double quotes may hold some.
func fields(text string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	r.LazyQuotes = true
	list, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("%q: %w", text, err)
	}
	return list, nil
}

// options reads NAME=VALUE fields, and NAME alone where its row has no value.
func options(list []string, rows map[string]func(value string) error) error {
	seen := map[string]bool{}
	for _, field := range list {
		name, value, _ := strings.Cut(field, "=")
		set, known := rows[name]
		if !known {
			names := slices.Sorted(mapsKeys(rows))
			return fmt.Errorf("%q: no such word; there are %s", field, strings.Join(names, ", "))
		}
		if seen[name] {
			return fmt.Errorf("%s is given twice", name)
		}
		seen[name] = true
		if err := set(value); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
	}
	return nil
}

func mapsKeys(rows map[string]func(string) error) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range rows {
			if !yield(name) {
				return
			}
		}
	}
}

// flag, text and number are the setters of a word.
func flag(to *bool) func(string) error {
	return func(v string) error {
		if v != "" {
			return fmt.Errorf("it has no value")
		}
		*to = true
		return nil
	}
}

func text(to *string) func(string) error {
	return func(v string) error {
		if v == "" {
			return fmt.Errorf("it needs a value")
		}
		*to = v
		return nil
	}
}

func number(to *int, least, most int) func(string) error {
	return func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("want a number from %d to %d", least, most)
		}
		*to = n
		return nil
	}
}

func parseDisk(s string) (Disk, error) {
	var d Disk
	list, err := fields(s)
	if err != nil {
		return d, err
	}
	if d.Path = list[0]; d.Path == "" {
		return d, fmt.Errorf("no path; give PATH[,ro][,id=NAME]")
	}
	return d, options(list[1:], map[string]func(string) error{
		"ro": flag(&d.ReadOnly), "id": text(&d.ID), "queues": number(&d.Queues, 1, 32),
		"direct": flag(&d.Direct), "writethrough": flag(&d.Writethrough),
	})
}

// ParseNet reads a value of --net: "none" as no interface, with an empty TAP.
func ParseNet(s string) (Net, error) {
	var n Net
	if s == "none" {
		return n, nil
	}
	list, err := fields(s)
	if err != nil {
		return n, err
	}
	err = options(list, map[string]func(string) error{
		"tap": text(&n.TAP), "id": text(&n.ID), "mtu": number(&n.MTU, 68, 65535), "queues": number(&n.Queues, 1, 16),
		"mac": func(v string) (err error) {
			if n.MAC, err = net.ParseMAC(v); err == nil && len(n.MAC) != 6 {
				err = fmt.Errorf("%q is no Ethernet address", v)
			}
			return err
		},
		"ip":  func(v string) (err error) { n.Address, err = netip.ParsePrefix(v); return err },
		"gw":  func(v string) (err error) { n.Gateway, err = netip.ParseAddr(v); return err },
		"dns": func(v string) (err error) { n.DNS, err = netip.ParseAddr(v); return err },
	})
	switch {
	case err != nil:
	case n.TAP == "":
		err = fmt.Errorf("no interface of the host; give tap=NAME, or none")
	case !n.Address.IsValid() && (n.Gateway.IsValid() || n.DNS.IsValid()):
		err = fmt.Errorf("gw= and dns= go with an address of the guest; give ip=ADDRESS/BITS")
	case n.Gateway.IsValid() && n.Gateway.Is4() != n.Address.Addr().Is4():
		err = fmt.Errorf("the gateway %v and the address %v are of two families", n.Gateway, n.Address)
	}
	return n, err
}

func parseShare(s string) (Share, error) {
	list, err := fields(s)
	if err != nil {
		return Share{}, err
	}
	tag, dir, _ := strings.Cut(list[0], "=")
	sh := Share{Tag: tag, Dir: dir}
	if tag == "" || dir == "" {
		return sh, fmt.Errorf("give TAG=DIR[,ro][,at=PATH]")
	}
	if len(tag) > 36 { // virtio 1.3 §5.11.4
		return sh, fmt.Errorf("a tag of %d bytes; there is room for 36", len(tag))
	}
	sh.At = "/mnt/" + tag
	return sh, options(list[1:], map[string]func(string) error{"ro": flag(&sh.ReadOnly), "at": func(v string) error {
		if !path.IsAbs(v) || path.Clean(v) == "/" {
			return fmt.Errorf("want a directory below /")
		}
		sh.At = path.Clean(v)
		return nil
	}})
}

func parseLimit(s string) (Limit, error) {
	id, limits, ok := strings.Cut(s, ":")
	if !ok || id == "" {
		return Limit{}, fmt.Errorf("give ID:bytes=10M/s,ops=1000/s")
	}
	l, err := ratelimit.Parse(limits)
	return Limit{id, l}, err
}

func (v *Vsock) Set(s string) error {
	list, err := fields(s)
	if err != nil {
		return err
	}
	var parsed Vsock
	cid := func(value string) error {
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n < 3 || n >= 1<<32-1 { // virtio 1.3 §5.10.4: 0, 1, 2 and the last have their own meaning
			return fmt.Errorf("a guest's CID is 3 to 4294967294")
		}
		parsed.CID = uint32(n)
		return nil
	}
	if err := options(list, map[string]func(string) error{"CID": cid, "cid": cid, "uds": text(&parsed.Path)}); err != nil {
		return err
	}
	if parsed.CID == 0 || parsed.Path == "" {
		return fmt.Errorf("give CID=N,uds=PATH")
	}
	if parsed.Path, err = filepath.Abs(parsed.Path); err != nil {
		return err
	}
	*v = parsed
	return nil
}

func (v *Vsock) String() string {
	if v.CID == 0 {
		return ""
	}
	return fmt.Sprintf("CID=%d,uds=%s", v.CID, v.Path)
}

func (*Vsock) Type() string { return "CID,uds" }

// list is a flag that may be repeated.
type list[T any] struct {
	to    *[]T
	parse func(string) (T, error)
	given []string
}

func newList[T any](to *[]T, parse func(string) (T, error)) *list[T] {
	return &list[T]{to: to, parse: parse}
}

func (l *list[T]) Set(text string) error {
	v, err := l.parse(text)
	if err != nil {
		return err
	}
	*l.to = append(*l.to, v)
	l.given = append(l.given, text)
	return nil
}

func (l *list[T]) String() string { return strings.Join(l.given, " ") }
func (*list[T]) Type() string     { return "list" }
