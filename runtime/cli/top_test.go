package cli

import (
	"strings"
	"testing"
	"time"
)

func TestTop(t *testing.T) {
	v := topView{heads: []string{"TASKS", "CONTAINER"}, wide: true}
	before := []load{{name: "idle", cpu: time.Second}, {name: "gone"}, {name: "busy", cpu: time.Second, calls: 100, faults: 10}}
	now := []load{
		{name: "idle", cpu: time.Second, memory: 2 << 20, rest: []string{"1", "idle"}},
		{name: "busy", cpu: 2500 * time.Millisecond, calls: 2100, faults: 30, memory: 20 << 20, rest: []string{"7", "busy\x1b"}},
		{name: "new", cpu: time.Hour, calls: 5, memory: 1 << 20, rest: []string{"3", "new"}},
	}
	var b strings.Builder
	if err := v.print(&b, before, now, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(b.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"CPU% CALLS/S FAULTS/S MEMORY TASKS CONTAINER", "75.0 1000 10 20M 7 busy?", "0.0 0 0 2048K 1 idle", "0.0 0 0 1024K 3 new"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", b.String())
	}
}
