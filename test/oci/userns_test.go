package oci

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// owned is a directory whose files belong to some of a container's users and to others.
func owned(t *testing.T) string {
	dir := t.TempDir()
	for _, f := range []struct {
		name string
		id   int
		mode fs.FileMode
	}{
		{"", 100000, 0o755 | fs.ModeDir}, {"mine", 100000, 0o600}, {"user", 101000, 0o640}, {"host", 0, 0o600}, {"open", 0, 0o666},
		{"above", 165536, 0o644}, {"setuid", 0, 0o755 | fs.ModeSetuid}, {"sticky", 0, 0o777 | fs.ModeSticky | fs.ModeDir}, {"sticky/theirs", 0, 0o666}, {"sticky/ours", 101000, 0o600},
	} {
		name := filepath.Join(dir, f.name)
		var err error
		if f.mode.IsDir() {
			err = os.MkdirAll(name, 0o755)
		} else {
			err = os.WriteFile(name, []byte(f.name+"\n"), 0o644)
		}
		if err == nil {
			err = os.Chown(name, f.id, f.id)
		}
		if err == nil {
			err = os.Chmod(name, f.mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestUserNamespace: root inside is user 100000 outside, and has no say over what belongs to
// none of the container's users.
func TestUserNamespace(t *testing.T) {
	const script = `
exec 2>&1
cd /mnt
tr -s ' ' </proc/self/uid_map; tr -s ' ' </proc/self/gid_map
id -u; stat -c '%n %u %g %a' . * sticky/*
cat mine; cat user; cat host; cat open
echo more >>open; echo $?
chown 0 host; chmod 666 host; chown 0 above; touch -d @1 open
rm sticky/theirs; rm sticky/ours; mv sticky/theirs sticky/t
echo new >new; mkdir dir; ln -s x link; mknod fifo p
chown 1000:5 new; chown 70000 new; chown -h 7 link; chmod u+s dir
mv new dir/old; stat -c '%n %u %g %a' dir dir/old link fifo`
	seen := map[string]string{}
	eachRuntime(t, func(t *testing.T, p *program) {
		dir := owned(t)
		r := p.run(t, func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: dir, Options: []string{"rbind"}})
		}, "sh", "-c", script)
		seen[p.name] = fmt.Sprint(r, owners(t, dir))
		for _, want := range []string{"0 100000 65536", "cat: can't open 'host': Permission denied", "dir/old 101000 100005"} {
			if !strings.Contains(seen[p.name], want) {
				t.Errorf("no %q in\n%s%s", want, seen[p.name], p.logged())
			}
		}
	})
	for name, text := range seen {
		if want := seen["runc"]; want != "" && text != want {
			t.Errorf("with runc:\n%s\nwith %s:\n%s", want, name, text)
		}
	}
}

// owners are the files below dir with their ids on the host.
func owners(t *testing.T, dir string) string {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(name, &st)
		}
		rel, _ := filepath.Rel(dir, name)
		fmt.Fprintf(&b, "%s %d %d %o\n", rel, st.Uid, st.Gid, st.Mode)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
