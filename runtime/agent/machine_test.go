package agent

import (
	"fmt"
	"testing"
)

func TestParseCPUs(t *testing.T) {
	for _, row := range []struct{ list, want string }{
		{"", "[] <nil>"},
		{"0", "[0] <nil>"},
		{"0-2,7", "[0 1 2 7] <nil>"},
		{"7,1-2,2-3", "[7 1 2 3] <nil>"},
		{"1,", `[] "1," is no list of CPUs, as 0-2,7`},
		{"2-1", `[] "2-1" is no list of CPUs, as 0-2,7`},
		{"0-99999999", `[] "0-99999999" is no list of CPUs, as 0-2,7`},
		{"0-65535", `[] "0-65535" is no list of CPUs, as 0-2,7`},
		{"a", `[] "a" is no list of CPUs, as 0-2,7`},
		{"-1", `[] "-1" is no list of CPUs, as 0-2,7`},
	} {
		cpus, err := ParseCPUs(row.list)
		if got := fmt.Sprint(cpus, " ", err); got != row.want {
			t.Errorf("%q: %s, want %s", row.list, got, row.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for _, row := range []struct {
		text string
		want uint64 // 0: refused
	}{{"1048576", 1 << 20}, {"256M", 256 << 20}, {"6GiB", 6 << 30}, {"1g", 1 << 30}, {"2tb", 2 << 40}, {"", 0}, {"M", 0}, {"1X", 0}, {"-1M", 0}, {"99999999T", 0}, {"1.5G", 0}} {
		if n, err := parseSize(row.text); n != row.want || (err != nil) != (row.want == 0) {
			t.Errorf("%q: %d, %v", row.text, n, err)
		}
	}
}
