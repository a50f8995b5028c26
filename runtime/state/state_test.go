package state

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestCheckID(t *testing.T) {
	for _, row := range []struct {
		id string
		ok bool
	}{
		{"a", true}, {"A_b+c.d-1", true}, {strings.Repeat("x", 255), true},
		{"", false}, {".", false}, {"..", false}, {"a/b", false}, {"a b", false}, {"a\nb", false},
		{"ä", false}, {"-x", false}, {strings.Repeat("x", 256), false},
	} {
		if err := CheckID(row.id); (err == nil) != row.ok {
			t.Errorf("%q: %v, want ok %v", row.id, err, row.ok)
		} else if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: an error of several lines: %v", row.id, err)
		}
	}
}

func TestLife(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if ids, err := List(root); err != nil || len(ids) != 0 {
		t.Errorf("List of a root that is not there: %v, %v", ids, err)
	}
	if _, err := Open(root, "c"); !errors.Is(err, ErrNotExist) {
		t.Errorf("Open: %v, want ErrNotExist", err)
	}
	d, err := Create(root, "c")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(root, "c"); !errors.Is(err, ErrExist) {
		t.Errorf("Create again: %v, want ErrExist", err)
	}
	if _, err := d.Load(); err == nil {
		t.Error("Load before Save is no error")
	}
	if err := d.Save(&State{ID: "c", Status: specs.StateCreating}); err != nil {
		t.Fatal(err)
	}
	other, err := Open(root, "c")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.TryLock(); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("TryLock: %v, want EWOULDBLOCK", err)
	}
	d.Unlock()
	if err := other.TryLock(); err != nil {
		t.Fatal(err)
	}
	if s, err := other.Load(); err != nil || s.ID != "c" || s.Status != specs.StateCreating {
		t.Errorf("Load: %+v, %v", s, err)
	}
	if ids, err := List(root); err != nil || len(ids) != 1 || ids[0] != "c" {
		t.Errorf("List: %v, %v", ids, err)
	}
	if entries, _ := os.ReadDir(d.Path); len(entries) != 2 {
		t.Errorf("%v, want state and lock alone", entries)
	}

	// One that waits for the lock while the container is removed.
	waited := make(chan error)
	go func() { waited <- d.Lock() }()
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, ErrNotExist) {
		t.Errorf("Lock of a removed container: %v, want ErrNotExist", err)
	}
	if entries, _ := os.ReadDir(root); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestLoadRefuses(t *testing.T) {
	d, err := Create(t.TempDir(), "c")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Unlock()
	for _, row := range []struct{ data, want string }{
		{"", "unexpected end"}, {"{", "unexpected end"}, {`{"version":99}`, "has version 99"}, {`{"id":"of runc's"}`, "not a state of this program's"}, {`{"version":"x"}`, "cannot unmarshal"},
	} {
		if err := os.WriteFile(filepath.Join(d.Path, stateFile), []byte(row.data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%q: %v, want %s", row.data, err, row.want)
		}
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Alive() || p.WaitGone(0) {
		t.Error("a running process counts as gone")
	}
	if (Process{p.PID, p.Start + 1}).Alive() {
		t.Error("a process with another start counts as ours")
	}
	in.Close()
	if !p.WaitGone(time.Minute) || p.Alive() {
		t.Error("a zombie counts as alive")
	}
	cmd.Wait()
	if err := p.Signal(unix.SIGTERM); err != unix.ESRCH {
		t.Errorf("Signal: %v, want ESRCH", err)
	}
}

func TestParseStat(t *testing.T) {
	line := "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 77 1 2"
	if state, start, err := parseStat([]byte(line)); state != 'S' || start != 77 || err != nil {
		t.Errorf("%c %d %v", state, start, err)
	}
	for _, bad := range []string{"", "1 (a", "1 (a) S 0"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}
