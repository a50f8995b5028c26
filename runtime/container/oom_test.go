package container

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestWatchOOM: what ends the container is heard of, and so is what came before.
func TestWatchOOM(t *testing.T) {
	r := runtimeFor(t)
	const kills = 3
	c, err := r.Create(t.Context(), &Create{ID: "c", Bundle: bundleOf(t, nil, "starve", fmt.Sprint(kills))})
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	w, err := c.WatchOOM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	idle, err := c.WatchOOM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	idle.End()
	if n, ok := idle.Next(); ok {
		t.Errorf("%d after the end", n)
	}
	idle.Close()
	idle.Close()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Process.Process.Wait()
	w.End() // as late as anybody does
	last := uint64(0)
	for {
		n, ok := w.Next()
		if !ok {
			break
		}
		if n <= last {
			t.Errorf("%d after %d", n, last)
		}
		last = n
	}
	if last != kills {
		t.Errorf("heard of %d, want %d", last, kills)
	}
	if _, err := c.WatchOOM(t.Context()); err != ErrNotRunning {
		t.Errorf("of one that has ended: %v", err)
	}
	if err := c.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	reap(t)
}

// TestOOMWords: a sandbox that writes what it likes is not waited for, and not believed.
func TestOOMWords(t *testing.T) {
	for _, row := range []struct {
		says string
		want string
	}{
		{"1\n", "1"},
		{"1\n2\n7\n", "7"},
		{"3\n2\n", ""}, // fewer than before, of what came at once
		{"1\n2", "1"},  // half a line
		{"", ""},
		{"-1\n", ""},
		{"1 kill\n", ""},
		{"99999999999999999999999\n", ""},
		{strings.Repeat("1", 100_000), ""}, // a line without an end
		{strings.Repeat("4\n", 10_000), "4"},
	} {
		r, to, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_, end := context.WithCancel(t.Context())
		w := &OOMWatch{n: 2, from: r, end: end, ended: make(chan struct{})}
		if row.says != "3\n2\n" {
			w.n = 0
		}
		go func() {
			to.WriteString(row.says) // EPIPE: enough was read
			to.Close()
			close(w.ended)
		}()
		var got []string
		for {
			n, ok := w.Next()
			if !ok {
				break
			}
			got = append(got, fmt.Sprint(n))
		}
		if heard := strings.Join(got, " "); !strings.HasSuffix(heard, row.want) || (heard == "") != (row.want == "") {
			t.Errorf("%.20q: %q, want %q", row.says, heard, row.want)
		}
		r.Close()
		<-w.ended
	}
}
