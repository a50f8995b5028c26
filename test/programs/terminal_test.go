package programs

import (
	"regexp"
	"testing"

	"bulkhead/test/rig"
)

// jobs is a session at bash's prompt: what we type, and what must be shown before we type on.
var jobs = []struct{ keys, shown string }{
	{"", "% "},
	{"tty | cut -c1-9; stty size; stty -a | grep -o 'intr = [^;]*'\n", "^C\r\n% "},
	{"sleep 100 &\n", "% "},
	{"jobs\n", "sleep 100 &\r\n% "},
	{"kill %1; wait %1; echo $?\n", "143\r\n% "},
	{"(echo he''re; exec sleep 100)\n", "here\r\n"}, // a key typed before it speaks would reach the shell
	{"\x1a", "Stopped"},                             // control Z
	{"", "% "},
	{"bg\n", "% "},
	{"jobs %1 | cut -c1-20; kill %1; wait %1; echo $?\n", "143\r\n% "},
	{"cat\n", "cat\r\n"},
	{"text\n", "text\r\ntext\r\n"},
	{"\x04", "% "}, // control D ends the file
	{"cat\n", "cat\r\n"},
	{"again\n", "again\r\nagain\r\n"},
	{"\x03", "% "}, // control C ends cat
	{"echo $?\n", "130\r\n% "},
	{"sh -c 'kill -STOP $$; echo went on'\n", "Stopped"},
	{"", "% "},
	{"fg >/dev/null\n", "went on\r\n% "},
	{"(echo he''re; exec sleep 100) | cat\n", "here\r\n"},
	{"\x1a", "Stopped"},
	{"", "% "},
	{"kill -USR1 %1; fg >/dev/null; echo do''ne\n", "done\r\n% "}, // pending until it goes on
	{"(read -r x; echo \"got $x\")\n", "\r\n"},
	{"mistake\x15line\n", "got line\r\n% "},
	{"trap 'echo window' WINCH; echo se''t\n", "set\r\n% "},
	{"exit 7\n", "exit"},
}

// number is a process id in a job's notice.
var number = regexp.MustCompile(`(?m)^\[1\] \d+`)

func session(t *testing.T, terminal *rig.Terminal) string {
	t.Helper()
	for _, step := range jobs {
		if step.keys != "" {
			terminal.Type(step.keys)
		}
		terminal.Expect(step.shown)
	}
	text, code := terminal.Close()
	if code != 7 {
		t.Errorf("exit status %d, want 7", code)
	}
	return number.ReplaceAllString(text, "[1] N")
}

func TestJobControl(t *testing.T) {
	rig.Need(t, "bash")
	bash := rig.Command{Args: []string{"bash", "--norc", "--noprofile", "--noediting", "-i"}}
	want := session(t, rig.Open(t, bash, bash.Args...))
	rig.EachPlatform(t, func(t *testing.T, platform string) {
		got := session(t, rig.OpenIn(t, bash, platform))
		if got != want {
			t.Errorf("native (-) and sandbox (+) show different screens:\n%s", rig.Diff(t, want, got))
		}
	})
}

// TestWindow changes the window's size while a program runs.
func TestWindow(t *testing.T) {
	rig.EachPlatform(t, func(t *testing.T, platform string) {
		sh := rig.Command{Args: []string{"bash", "-c", `trap 'stty size; exit 5' WINCH; stty size; while :; do sleep 0.1; done`}}
		terminal := rig.OpenIn(t, sh, platform)
		terminal.Expect("24 80\r\n")
		terminal.Resize(50, 132)
		terminal.Expect("50 132\r\n")
		if _, code := terminal.Close(); code != 5 {
			t.Errorf("exit status %d, want 5", code)
		}
	})
}
