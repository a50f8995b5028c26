package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// starving is a fake that tells of kills.
type starving struct {
	*fake
	kills Kills
	told  chan error
}

func (s *starving) OOM(ctx context.Context, _ string, to *os.File) error {
	err := s.kills.Tell(ctx, to)
	s.told <- err
	return err
}

// listen calls, and gives what it hears once it has heard the first of it.
func listen(t *testing.T, c *Client) (heard *os.File, over chan error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	over = make(chan error, 1)
	go func() {
		over <- c.OOM(context.Background(), "", w)
		w.Close()
	}()
	expect(t, r, "0\n")
	return r, over
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Errorf("heard %q, %v, want %q", b, err, want)
	}
}

// TestKills: all who listen hear of each, one who comes late how many there were, and
// who goes leaves nothing.
func TestKills(t *testing.T) {
	h := &starving{fake: newFake(), told: make(chan error, 10)}
	c, other := serve(t, h), serve(t, h)
	first, over := listen(t, c)
	second, otherOver := listen(t, other)
	h.kills.Report(1)
	h.kills.Report(1)
	h.kills.Report(4)
	h.kills.Report(2) // late
	for _, r := range []io.Reader{first, second} {
		expect(t, r, "1\n4\n")
	}
	other.Close()
	if err := <-otherOver; !errors.Is(err, ErrGone) {
		t.Errorf("who hung up: %v", err)
	}
	if err := <-h.told; err != nil {
		t.Error(err)
	}
	h.kills.mu.Lock()
	if n := len(h.kills.listeners); n != 1 {
		t.Errorf("%d listen, want the one that stayed", n)
	}
	h.kills.mu.Unlock()
	h.kills.End()
	if err := <-over; err != nil {
		t.Errorf("the end: %v", err)
	}
	if b, err := io.ReadAll(first); err != nil || len(b) != 0 {
		t.Errorf("at the end: %q, %v", b, err)
	}

	// After the end there is the count, and no wait. Nor is there one who is not told.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := h.kills.Tell(t.Context(), w); err != nil {
		t.Error(err)
	}
	w.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "4\n" {
		t.Errorf("after the end: %q, %v", b, err)
	}
	if err := serve(t, newFake()).OOM(t.Context(), "", w); err == nil {
		t.Error("a closed file is handed on")
	}
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := serve(t, newFake()).OOM(t.Context(), "", null); !errors.Is(err, unix.ENOSYS) {
		t.Errorf("a sandbox that does not tell: %v", err)
	}
}

// TestKillsWaitForNobody: neither for one that does not read nor for one that has gone.
func TestKillsWaitForNobody(t *testing.T) {
	var k Kills
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Fd() // makes it one that waits
	done := make(chan error, 1)
	go func() { done <- k.Tell(t.Context(), w) }()
	expect(t, r, "0\n")
	const many = 50_000 // more than a pipe holds
	for n := range uint64(many) {
		k.Report(n + 1)
	}
	r.Close()
	k.Report(many + 1)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(k.listeners) != 0 {
		t.Error("one that has gone is told")
	}
	if err := k.Tell(t.Context(), w); err != nil {
		t.Error(err)
	}
	if strings.Contains(w.Name(), "closed") || w.Close() != nil {
		t.Error("a listener's file was closed, which is the caller's")
	}
}
