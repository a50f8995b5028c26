package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

var full = &Config{
	Hostname: "box",
	Args:     []string{"/bin/app", "-v", ""},
	Env:      []string{"A=1", "B="},
	Cwd:      "/srv",
	UID:      1000, GID: 1000, Groups: []uint32{4, 24},
	Console: "hvc0", Rows: 24, Columns: 80,
	Modules: []string{"/lib/modules/x.ko"},
	Mounts: []Mount{
		{"data", "/data", "virtiofs", []string{"ro"}},
		{"disk:root", "/new", "ext4", nil},
	},
	Root: "/new",
	Network: Network{
		Interfaces: []Interface{{
			Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1400,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")},
			Routes:    []Route{{Gateway: netip.MustParseAddr("10.0.0.1")}, {Destination: netip.MustParsePrefix("fd00::/8")}},
		}},
		Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Search:      []string{"example.org"},
		Hosts:       map[string]netip.Addr{"host": netip.MustParseAddr("10.0.0.1")},
	},
	Time:  time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	Debug: true,
}

func TestMarshalParse(t *testing.T) {
	for _, want := range []*Config{full, {}} {
		b, err := want.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, b)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("through\n%s\ngot  %+v\nwant %+v", b, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, row := range []struct{ text, says string }{
		{``, "EOF"},
		{`{} {}`, "more than one"},
		{`{"hostnmae":"x"}`, "hostnmae"},
		{`{"hostname":"a b"}`, "hostname"},
		{`{"hostname":"` + strings.Repeat("x", 65) + `"}`, "65 bytes"},
		{`{"cwd":"relative"}`, "absolute"},
		{`{"env":["=x"]}`, "NAME=value"},
		{`{"args":[""]}`, "empty program"},
		{`{"args":["a\u0000b"]}`, "NUL"},
		{`{"console":"../mem"}`, "console"},
		{`{"mounts":[{"source":"x","target":"/","type":"ext4"}]}`, "root"},
		{`{"mounts":[{"source":"x","target":"/x","type":""}]}`, "no type"},
		{`{"mounts":[{"source":"x","target":"x","type":"ext4"}]}`, "absolute"},
		{`{"network":{"interfaces":[{}]}}`, "neither"},
		{`{"network":{"interfaces":[{"mac":"02:00"}]}}`, "MAC"},
		{`{"network":{"interfaces":[{"name":"sixteen-letters-"}]}}`, "15 bytes"},
		{`{"network":{"interfaces":[{"name":"eth0","mtu":67}]}}`, "MTU"},
		{`{"network":{"interfaces":[{"name":"eth0","routes":[{}]}]}}`, "route"},
		{`{"network":{"interfaces":[{"name":"eth0","addresses":[""]}]}}`, "address"},
		{`{"network":{"nameservers":["x"]}}`, "x"},
		{`{"network":{"hosts":{"":"10.0.0.1"}}}`, "hosts"},
	} {
		_, err := Parse([]byte(row.text))
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("Parse(%s): got %v, want an error that says %q", row.text, err, row.says)
		}
	}
}

func TestCommandLine(t *testing.T) {
	eth0 := Interface{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")},
		Routes: []Route{{Gateway: netip.MustParseAddr("10.0.0.1")}}}
	for _, row := range []struct {
		line string
		want Config
	}{
		{"quiet console=ttyS0 root=/dev/vda\n", Config{}},
		{"bulkhead.hostname=box bulkhead.debug", Config{Hostname: "box", Debug: true}},
		{`quiet bulkhead.run="ls -l '/a b'" ro`, Config{Args: []string{"ls", "-l", "/a b"}}},
		{`"bulkhead.run=sh -c 'exit 3'"`, Config{Args: []string{"sh", "-c", "exit 3"}}},
		{`bulkhead.run="a\ b '' c"`, Config{Args: []string{"a b", "", "c"}}},
		{"bulkhead.env=A=1 bulkhead.env=B=", Config{Env: []string{"A=1", "B="}}},
		{"bulkhead.share=src:/src:ro bulkhead.share=out:/out", Config{Mounts: []Mount{{"src", "/src", "virtiofs", []string{"ro"}}, {"out", "/out", "virtiofs", []string{}}}}},
		{"bulkhead.disk=/dev/vda:/data:ext4", Config{Mounts: []Mount{{"/dev/vda", "/data", "ext4", []string{}}}}},
		{"bulkhead.disk=disk:db:/data:ext4:ro", Config{Mounts: []Mount{{"disk:db", "/data", "ext4", []string{"ro"}}}}},
		{"bulkhead.ip=10.0.0.2/24,10.0.0.1 bulkhead.dns=10.0.0.1", Config{Network: Network{Interfaces: []Interface{eth0}, Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}},
		{"bulkhead.cwd=/tmp bulkhead.root=/new bulkhead.console=ttyS0", Config{Cwd: "/tmp", Root: "/new", Console: "ttyS0"}},
		{"bulkhead.cwd=/tmp -- bulkhead.cwd=/no", Config{Cwd: "/tmp"}},
	} {
		var got Config
		if err := got.ParseCommandLine(row.line); err != nil {
			t.Errorf("%s: %v", row.line, err)
		} else if !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s\ngot  %+v\nwant %+v", row.line, got, row.want)
		}
	}
}

func TestCommandLineRefuses(t *testing.T) {
	for _, row := range []struct{ line, says string }{
		{"bulkhead.hostnmae=x", "no such word"},
		{"bulkhead.hostname", "hostname=NAME"},
		{"bulkhead.debug=1", "want debug"},
		{"bulkhead.run=", "empty command"},
		{"bulkhead.run='a", "quote"},
		{"bulkhead.share=x", "TAG:DIR"},
		{"bulkhead.share=x:/y:rw", "TAG:DIR"},
		{"bulkhead.share=x:y", "absolute"},
		{"bulkhead.disk=/dev/vda:/x", "SOURCE:DIR:TYPE"},
		{"bulkhead.ip=10.0.0.2", "no '/'"},
		{"bulkhead.ip=10.0.0.2/24,x", "x"},
		{"bulkhead.dns=x", "x"},
	} {
		err := new(Config).ParseCommandLine(row.line)
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: got %v, want an error that says %q", row.line, err, row.says)
		}
	}
}

// FuzzConfig feeds the file and the command line what a stranger could have
// written there. What is taken must be possible, and survive being written again.
func FuzzConfig(f *testing.F) {
	b, err := full.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, `quiet "bulkhead.run=sh -c 'exit 3'" bulkhead.share=a:/b:ro`)
	f.Add([]byte(`{}`), `bulkhead.disk=disk:a:/b:ext4 bulkhead.ip=::1/128,::2 " =" `)
	f.Fuzz(func(t *testing.T, file []byte, line string) {
		c, err := Parse(file)
		if err != nil {
			c = new(Config)
		}
		if err := c.ParseCommandLine(line); err != nil {
			return
		}
		b, err := c.Marshal()
		if err != nil {
			t.Fatalf("taken from %q and %q, and not writable: %v", file, line, err)
		}
		if _, err := Parse(b); err != nil {
			t.Fatalf("written as %s, and not readable: %v", b, err)
		}
	})
}
