package e2e

import (
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/hwtest/lab"
)

// whoAmI prints what no two guests may have in common, then the time, and what time
// it is for how long the guest has been up; and it uses its files.
const whoAmI = `
cat /proc/sys/kernel/random/boot_id
head -c 16 /dev/urandom | od -An -tx1
date +%s
cat /proc/uptime
cat /etc/passwd | md5sum
own=/tmp/$(cat /proc/sys/kernel/random/boot_id) # the root is the others' as well
echo written >$own && cat $own
`

// identity is what it printed.
type identity struct {
	bootID, random string
	clock, up      float64 // seconds
	rest           string
}

func parseIdentity(t *testing.T, out string) (id identity) {
	t.Helper()
	lines := strings.SplitN(out, "\n", 5)
	if len(lines) != 5 {
		t.Fatalf("%q", out)
	}
	id = identity{bootID: lines[0], random: lines[1], rest: lines[4]}
	var err error
	id.clock, err = strconv.ParseFloat(lines[2], 64)
	must(t, err)
	up, _, _ := strings.Cut(lines[3], " ")
	id.up, err = strconv.ParseFloat(up, 64)
	must(t, err)
	return id
}

// TestTemplate: the first guest boots and is kept, those after it are copies, each with
// an identity of its own; a template that is damaged costs a boot and nothing else.
func TestTemplate(t *testing.T) {
	runtimeProgram(t)
	if !inLinux(t, lab.Machine{Memory: 3072}) {
		return
	}
	c := box(t, whoAmI)
	c.spec.Process.Env = []string{"PATH=/bin"}
	for _, name := range []string{"od", "date", "md5sum"} {
		must(t, os.Symlink("busybox", filepath.Join(c.dir, "rootfs/bin", name)))
	}
	dir := filepath.Join(c.dir, "templates")
	passwd, err := os.ReadFile(filepath.Join(c.dir, "rootfs/etc/passwd"))
	must(t, err)
	sum := fmt.Sprintf("%x", md5.Sum(passwd))
	var mu sync.Mutex
	seen := map[string]string{}
	check := func(name, use string, began time.Time, got outcome) {
		text, err := os.ReadFile(filepath.Join(c.dir, "log."+name))
		must(t, err)
		if got.code != 0 || use != "" && !strings.Contains(string(text), "use="+use) {
			t.Errorf("%s: %+v, want its template %s; its log:\n%s", name, got, use, text)
			return
		}
		id := parseIdentity(t, got.out)
		mu.Lock()
		defer mu.Unlock()
		for _, own := range []string{id.bootID, id.random} {
			if other := seen[own]; other != "" || len(own) < 30 {
				t.Errorf("%s: %q is %q's too", name, own, other)
			}
			seen[own] = name
		}
		took := time.Since(began).Seconds()
		if off := id.clock - float64(began.Unix()); off < -1 || off > took+1 {
			t.Errorf("%s: its clock is %v seconds off", name, off)
		}
		if id.up > took+120 { // 120: what a template may have taken to boot
			t.Errorf("%s: it has been up for %v seconds", name, id.up)
		}
		if id.rest != sum+"  -\nwritten\n" {
			t.Errorf("%s: %q", name, id.rest)
		}
	}
	var more []string
	// run starts containers, all at once.
	run := func(use string, names ...string) {
		t.Helper()
		commands := map[string]*exec.Cmd{}
		for _, name := range names { // each writes the configuration
			flags := []string{"--isolation", "vm", "--template", dir, "--log", filepath.Join(c.dir, "log."+name)}
			commands[name] = c.commandWith(append(flags, more...), "run", name)
		}
		var all sync.WaitGroup
		for name, cmd := range commands {
			all.Go(func() { began := time.Now(); check(name, use, began, finish(t, cmd)) })
		}
		all.Wait()
	}
	templates := func(want int) string {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(dir, "*.template*"))
		must(t, err)
		if len(list) != want || want > 0 && !strings.HasSuffix(list[0], ".template") {
			t.Fatalf("templates: %v, want %d", list, want)
		}
		return strings.Join(list, "")
	}
	run("kept", "first")
	path := templates(1)
	run("copied", "second")
	if !slow(t) {
		return
	}
	run("copied", "third", "fourth", "fifth")
	must(t, os.WriteFile(path, []byte("no template"), 0o600))
	run("unfit", "sixth")
	templates(0)
	run("", "seventh", "eighth") // one of them keeps, whichever
	templates(1)
	// Without --debug a copy's first line of log is that it has ended.
	more = []string{"--debug=false"}
	run("", "ninth")
	run("", "tenth")
	templates(2)
}
