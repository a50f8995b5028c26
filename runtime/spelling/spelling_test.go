package spelling

import "testing"

func TestNearest(t *testing.T) {
	names := []string{"isolation", "platform", "overlay", "template", "debug"}
	for written, want := range map[string]string{"isolate": "isolation", "plattform": "platform", "debugg": "debug", "templates": "template", "x": "", "kernel": "", "": ""} {
		if got := Nearest(written, names); got != want {
			t.Errorf("%s: %q, want %q", written, got, want)
		}
	}
}
