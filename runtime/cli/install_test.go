package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/runtime/console"
)

// install on a terminal shows the change, asks, and obeys the answer.
func TestInstallAsks(t *testing.T) {
	for answer, code := range map[string]int{"y\n": 0, "yes\n": 0, "n\n": notDone, "\n": notDone} {
		dir := t.TempDir()
		file := filepath.Join(dir, "etc/docker/daemon.json")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("{\"x\": \"\x7f\"}"), 0o644); err != nil {
			t.Fatal(err)
		}
		got, said := onTerminal(t, answer, "install", "--program=/b/bulkhead", "--destdir="+dir)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != code || strings.Contains(string(text), "/b/bulkhead") != (code == 0) {
			t.Errorf("%q: exit %d, the file is %s", answer, got, text)
		}
		if !strings.Contains(said, "+{\"x\": \"?\", \"runtimes\"") || !strings.Contains(said, "Write this? [y/N] ") || strings.Contains(said, "next: docker: restart") != (code == 0) {
			t.Errorf("%q: it says %q", answer, said)
		}
	}
}

// onTerminal runs Main with a terminal on which somebody types, and gives what it shows.
func onTerminal(t *testing.T, typed string, args ...string) (int, string) {
	t.Helper()
	pty, err := console.New(24, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if _, err := pty.Master.WriteString(typed); err != nil {
		t.Fatal(err)
	}
	shown := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(pty.Master) // ends with EIO when nobody has the other end
		shown <- string(all)
	}()
	in, out := os.Stdin, os.Stdout
	os.Stdin, os.Stdout = pty.Slave, pty.Slave
	code := Program{}.Main(args)
	os.Stdin, os.Stdout = in, out
	pty.Slave.Close()
	return code, <-shown
}
