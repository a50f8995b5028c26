package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// parsed is a machine of a command line, and of a file if there is one.
func parsed(t testing.TB, file string, args ...string) (*Machine, error) {
	t.Helper()
	m := Default()
	f := pflag.NewFlagSet("boot", pflag.ContinueOnError)
	m.Flags(f)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		m.Kernel = f.Arg(0)
	}
	if file != "" {
		if err := m.ReadFile(file, f); err != nil {
			return nil, err
		}
	}
	return m, m.Check()
}

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const tomlFile = `
kernel = "vmlinux"
command = ["ls", "-l"]
cpus = 4
memory = "6G"
initrd = ["a", "b"]
disk = ["root.img,id=root", "data.img,ro"]
net = "tap=tap0,mac=02:00:00:00:00:01,mtu=9000"
share = ["src=/src,ro"]
vsock = "CID=7,uds=/run/v"
rate-limit = ["root:bytes=10M/s"]
balloon = true
rng = false
console = "pty"
timeout = "90s"
`

const jsonFile = `{"kernel":"vmlinux","command":["ls","-l"],"cpus":4,"memory":"6G","initrd":["a","b"],
"disk":["root.img,id=root","data.img,ro"],"net":"tap=tap0,mac=02:00:00:00:00:01,mtu=9000","share":["src=/src,ro"],
"vsock":"CID=7,uds=/run/v","rate-limit":["root:bytes=10M/s"],"balloon":true,"rng":false,"console":"pty","timeout":"90s"}`

var asFlags = []string{"--cpus", "4", "--memory=6G", "--initrd", "a", "--initrd", "b", "--disk", "root.img,id=root", "--disk", "data.img,ro",
	"--net", "tap=tap0,mac=02:00:00:00:00:01,mtu=9000", "--share", "src=/src,ro", "--vsock", "CID=7,uds=/run/v",
	"--rate-limit", "root:bytes=10M/s", "--balloon", "--rng=false", "--console", "pty", "--timeout", "90s", "vmlinux"}

// TestSameWords: flags, TOML and JSON make the same machine.
func TestSameWords(t *testing.T) {
	want, err := parsed(t, "", asFlags...)
	if err != nil {
		t.Fatal(err)
	}
	want.Command = []string{"ls", "-l"}
	for _, f := range []string{write(t, "m.toml", tomlFile), write(t, "m.json", jsonFile)} {
		got, err := parsed(t, f)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%+v\nwant\n%+v", f, got, want)
		}
	}
	if want.Memory != 6<<30 || want.Disks[1].ID != "disk1" || !want.Disks[1].ReadOnly || want.Nets[0].MTU != 9000 || want.LimitOf("root").Bytes.PerSecond != 10<<20 {
		t.Errorf("%+v", want)
	}
}

// TestCommandLineWins word by word.
func TestCommandLineWins(t *testing.T) {
	m, err := parsed(t, write(t, "m.toml", tomlFile), "--cpus", "2", "--disk", "root.img,id=root", "--rng", "bzImage")
	if err != nil {
		t.Fatal(err)
	}
	if m.CPUs != 2 || len(m.Disks) != 1 || !m.RNG || m.Kernel != "bzImage" || m.Memory != 6<<30 || len(m.Initrd) != 2 {
		t.Errorf("%+v", m)
	}
}

func TestConsoles(t *testing.T) {
	cases := []struct {
		args            []string
		console, serial string
		cmdline         string
	}{
		{nil, "none", "stdio", "console=ttyS0"},
		{[]string{"--console", "stdio"}, "stdio", "none", "console=hvc0"},
		{[]string{"--console", "stdio", "--serial", "file=/log"}, "stdio", "file=/log", "console=hvc0"},
		{[]string{"--serial", "pty"}, "none", "pty", "console=ttyS0"},
	}
	for _, c := range cases {
		m, err := parsed(t, "", append(c.args, "vmlinux")...)
		if err != nil {
			t.Fatal(err)
		}
		if m.Console.String() != c.console || m.Serial.String() != c.serial || !strings.HasPrefix(m.DefaultCmdline(), c.cmdline) {
			t.Errorf("%q: console %v, serial %v, %q", c.args, &m.Console, &m.Serial, m.DefaultCmdline())
		}
	}
}

func TestRefused(t *testing.T) {
	cases := []struct {
		args []string
		want string
	}{
		{nil, "no kernel"},
		{[]string{"--cpus", "0", "k"}, "1 to 32"},
		{[]string{"--cpus", "300", "k"}, "1 to 32"},
		{[]string{"--memory", "1M", "k"}, "not 1 MiB"},
		{[]string{"--memory", "1X", "k"}, "not a size"},
		{[]string{"--memory", "99999999T", "k"}, "not a size"},
		{[]string{"--memory", "-1", "k"}, "not a size"},
		{[]string{"--memory-backing", "paper", "k"}, "paper"},
		{[]string{"--disk", "", "k"}, ""},
		{[]string{"--disk", "a,id=x", "--disk", "b,id=x", "k"}, `both called "x"`},
		{[]string{"--disk", "a,id=disk1", "--disk", "b", "k"}, `both called "disk1"`},
		{[]string{"--disk", "a,id=rng", "k"}, `the name of another device, "rng"`},
		{[]string{"--share", "balloon=a", "--balloon", "k"}, `the name of another device, "balloon"`},
		{[]string{"--disk", "a,ro=1", "k"}, "it has no value"},
		{[]string{"--disk", "a,ro,ro", "k"}, "twice"},
		{[]string{"--disk", "a,queues=0", "k"}, "1 to 32"},
		{[]string{"--net", "mtu=1500", "k"}, "no interface"},
		{[]string{"--net", "tap=a,mac=hello", "k"}, "mac"},
		{[]string{"--net", "tap=a,mac=00:00:00:00:fe:80:00:00", "k"}, "Ethernet"},
		{[]string{"--net", "tap=a,mtu=67", "k"}, "68"},
		{[]string{"--net", "tap=a,ip=10.0.0.2", "k"}, "ip=10.0.0.2"},
		{[]string{"--net", "tap=a,gw=10.0.0.1", "k"}, "ip=ADDRESS/BITS"},
		{[]string{"--net", "tap=a,ip=10.0.0.2/24,gw=fe80::1", "k"}, "two families"},
		{[]string{"--net", "tap=a,ip=10.0.0.2/24,dns=one", "k"}, "dns=one"},
		{[]string{"--net", "tap=a,ip=10.0.0.2/24", "--init", "own", "k"}, "--init guestinit"},
		{[]string{"--net", "tap=a,ip=10.0.0.2/24", "--initrd", "i", "k"}, "--init guestinit"},
		{[]string{"--disk", "a,direct=yes", "k"}, "it has no value"},
		{[]string{"--share", "src", "k"}, "TAG=DIR"},
		{[]string{"--share", "a=/b,at=c", "k"}, "below /"},
		{[]string{"--share", "a=/b,at=/", "k"}, "below /"},
		{[]string{"--bundle", "/b", "--init", "own", "k"}, "guestinit"},
		{[]string{"--bundle", "/b", "--from-snapshot", "s"}, "cannot run --bundle"},
		{[]string{"--share", strings.Repeat("x", 37) + "=/", "k"}, "36"},
		{[]string{"--share", "a=/b", "--share", "a=/c", "k"}, `both called "a"`},
		{[]string{"--vsock", "CID=2,uds=/a", "k"}, "CID is 3"},
		{[]string{"--vsock", "CID=3", "k"}, "CID=N,uds=PATH"},
		{[]string{"--rate-limit", "disk0:bytes=1M", "k"}, "no disk or net"},
		{[]string{"--disk", "a", "--rate-limit", "disk0:bytes=1M", "--rate-limit", "disk0:ops=5", "k"}, "twice"},
		{[]string{"--disk", "a", "--rate-limit", "disk0:speed=1M", "k"}, "speed"},
		{[]string{"--console", "screen", "k"}, "screen"},
		{[]string{"--console", "stdio", "--serial", "stdio", "k"}, "only one"},
		{[]string{"--from-snapshot", "s", "k"}, "leave out k"},
		{[]string{"--seccomp", "maybe", "k"}, "maybe"},
		{[]string{"--boot-protocol", "uefi", "k"}, "uefi"},
		{[]string{"--timeout", "-5s", "k"}, "-5s"},
		{[]string{"--log-level", "loud", "k"}, "loud"},
		{[]string{"--cpu-without", "sse9", "k"}, "sse9"},
	}
	for _, c := range cases {
		if _, err := parsed(t, "", c.args...); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want one line with %q", c.args, err, c.want)
		}
	}
	files := []struct{ name, text, want string }{
		{"m.toml", "cpus = ", "m.toml"},
		{"m.toml", "wheels = 4", "wheels"},
		{"m.toml", "[disk]\npath = 'a'", "disk"},
		{"m.toml", "help = true", "help"},
		{"m.toml", "cpus = 1.5", "cpus"},
		{"m.json", "{} {}", "more than one"},
		{"m.json", `{"disk":[["a"]]}`, "list"},
		{"m.yaml", "cpus: 1", ".toml and .json"},
	}
	for _, c := range files {
		if _, err := parsed(t, write(t, c.name, c.text), "k"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want %q", c.name, c.text, err, c.want)
		}
	}
	if _, err := parsed(t, "/no/such/file.toml", "k"); err == nil {
		t.Error("a machine file that is not there: no error")
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"1": 1, "256M": 256 << 20, "256MiB": 256 << 20, "6g": 6 << 30, "1K": 1024, "2T": 2 << 40} {
		var s Size
		if err := s.Set(text); err != nil || s != want {
			t.Errorf("%q is %d, %v; want %d", text, s, err, want)
		}
		var again Size
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%q prints as %q, which is %d, %v", text, s.String(), again, err)
		}
	}
}

// FuzzFile: no file makes the parser panic, and what it takes is a machine that
// passes its own check or is refused in one line.
func FuzzFile(f *testing.F) {
	f.Add(true, tomlFile)
	f.Add(false, jsonFile)
	f.Fuzz(func(t *testing.T, asTOML bool, text string) {
		ext := ".json"
		if asTOML {
			ext = ".toml"
		}
		words, err := parse(ext, []byte(text))
		if err != nil {
			return
		}
		m := Default()
		flags := pflag.NewFlagSet("boot", pflag.ContinueOnError)
		m.Flags(flags)
		if m.apply(words, flags) == nil && m.Check() == nil && (m.CPUs < 1 || m.Kernel == "" && m.FromSnapshot == "") {
			t.Errorf("taken: %+v", m)
		}
	})
}
