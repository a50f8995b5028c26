package container

import (
	"strings"
	"testing"
)

func TestBanner(t *testing.T) {
	const version = "Linux version 6.1.192 (x@y) #1 SMP and more than sixty-four bytes of what else the kernel has to say"
	for _, row := range []struct{ name, text, want string }{
		{"at the start", version, "Linux 6.1.192"},
		{"behind a message", "Linux version %s\n\x00" + version, "Linux 6.1.192"},
		{"where two reads meet", strings.Repeat("x", 1<<20-7) + version, "Linux 6.1.192"},
		{"at the end of a read", strings.Repeat("x", 1<<20-len(version)) + version + "tail", "Linux 6.1.192"},
		{"short", "Linux version 5.4 ", "Linux 5.4"},
		{"without an end", "Linux version 5.4", ""},
		{"none", "a bzImage", ""},
		{"", "", ""},
	} {
		got, err := banner(strings.NewReader(row.text))
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: %q, %v, want %q", row.name, got, err, row.want)
		}
	}
}
