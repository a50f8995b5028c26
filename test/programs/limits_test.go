package programs

import (
	"testing"

	"bulkhead/test/rig"
)

// TestSoftLimit: a program has the soft limit of files that do was started with, and not that
// to which Go has raised do's own.
func TestSoftLimit(t *testing.T) {
	rig.EachPlatform(t, func(t *testing.T, platform string) {
		got := rig.Command{Args: []string{"sh", "-c", `ulimit -Sn 1000; "$0" "$1" do sh -c 'ulimit -n'; exit $?`, rig.Bulkhead(t), "--platform=" + platform}}.Native(t)
		if want := (rig.Result{Out: "1000\n"}); got != want {
			t.Errorf("%s", got)
		}
	})
}
