// Package fstest compares a file system of the Sentry's with Linux: random
// operations are done on both, and results, errnos and the whole tree must agree.
package fstest

import (
	"fmt"
	"hash/crc32"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// op is one operation, done on Linux and here.
type op struct {
	kind  string
	a, b  string
	flags int
	mode  uint32
	n, m  int64
	who   int // index of people
}

func (o op) String() string {
	return fmt.Sprintf("%s(%.30q, %.30q, flags=%#x, mode=%#o, n=%d, m=%d) as %d", o.kind, o.a, o.b, o.flags, o.mode, o.n, o.m, o.who)
}

// people are uids, whose gid is the same.
var people = []int{0, 0, 0, 1000, 1001}

// world does operations and tells of the result in a comparable way.
type world interface {
	do(o op) (string, error)
	lstat(path string) (vfs.Attr, error)
	list(path string) ([]string, error)
	stamp(path string)
	contents(path string) ([]byte, error)
}

// stampTime is what all times are set to after they have been looked at.
var stampTime = unix.Timespec{Sec: 1_000_000_000}

// state describes the whole tree below path, and sets the times back.
func (c *Config) state(w world, path string, out []string) []string {
	a, err := w.lstat(path)
	if err != nil {
		return append(out, fmt.Sprintf("%s: %v", path, err))
	}
	read, written := a.Atime != stampTime, a.Mtime != stampTime
	if c.Still {
		read, written = false, false
	}
	line := path + ": " + c.Tell(path, &a, read, written)
	if c.Still && a.Type() == unix.S_IFREG {
		b, err := w.contents(path)
		line += fmt.Sprintf(" contents %08x %v", crc32.ChecksumIEEE(b), err)
	}
	out = append(out, line)
	var names []string
	if a.Type() == unix.S_IFDIR {
		if names, err = w.list(path); err != nil {
			return append(out, fmt.Sprintf("%s: list: %v", path, err))
		}
	}
	for _, n := range names {
		out = c.state(w, strings.TrimSuffix(path, "/")+"/"+n, out)
	}
	if !c.Still {
		w.stamp(path)
	}
	return out
}

// Tell is the usual description.
func Tell(path string, a *vfs.Attr, read, written bool) string {
	moved := ""
	if written {
		moved = " written"
	}
	return fmt.Sprintf("mode %o nlink %d uid %d gid %d rdev %d size %d%s", a.Mode, a.Nlink, a.UID, a.GID, a.Rdev, a.Size, moved)
}

// Config says what is compared.
type Config struct {
	// Linux prepares dir, which is to be Linux's tree. The thread, in Sentry too, has a
	// mount namespace of its own.
	Linux func(t *testing.T, dir string) error
	// Sentry makes the file system to compare, which must start with the same tree.
	Sentry func(t *testing.T, arena *memory.Arena) vfs.FileSystem
	// Tell describes an inode, where the usual description would compare what may differ.
	Tell func(path string, a *vfs.Attr, read, written bool) string
	// Weights replaces how often each kind of operation comes, of which there is a usual table.
	Weights map[string]int
	// Xattrs replaces the names of attributes.
	Xattrs []string
	// Still leaves times alone, and compares contents instead: setting times is a
	// change, by which an overlay would have everything in its upper layer at once.
	Still        bool
	Seeds, Steps int
	First        int // seed
}

// Compare does random operations on both.
func Compare(t *testing.T, c Config) {
	if testing.Short() {
		c.Seeds = max(1, c.Seeds/5)
	}
	if c.Tell == nil {
		c.Tell = Tell
	}
	if c.Xattrs == nil {
		c.Xattrs = []string{"user.a", "user.b", "trusted.c", "security.d", "wrong.e", "user.", ""}
	}
	if c.Weights == nil {
		c.Weights = Weights
	}
	for seed := range c.Seeds {
		done := make(chan struct{})
		go func() {
			defer close(done)
			t.Run(fmt.Sprint(c.First+seed), func(t *testing.T) { c.compare(t, int64(c.First+seed)) })
		}()
		<-done
	}
}

func (c *Config) compare(t *testing.T, seed int64) {
	r := rand.New(rand.NewSource(seed))
	kinds := allKinds(c.Weights)
	Unshare(t)
	s := newSentry(t, c) // first: what it starts must have the host's root
	l := newLinux(t, c)
	c.state(l, "/", nil)
	c.state(s, "/", nil)
	var history []string
	for range c.Steps {
		o := randomOp(r, kinds, c.Xattrs)
		want, wantErr := l.do(o)
		got, gotErr := s.do(o)
		history = append(history, fmt.Sprintf("%v = %s %v", o, want[:min(len(want), 40)], wantErr))
		if wantErr != gotErr || want != got {
			t.Fatalf("%s\n\n%v\nLinux:  %.200s %v\nSentry: %.200s %v", strings.Join(tail(history, 20), "\n"), o, want, wantErr, got, gotErr)
		}
		ws, gs := c.state(l, "/", nil), c.state(s, "/", nil)
		if !slices.Equal(ws, gs) {
			t.Fatalf("%s\n\nafter %v = %v\n%s", strings.Join(tail(history, 20), "\n"), o, wantErr, difference(ws, gs))
		}
	}
	for _, fd := range l.fds {
		unix.Close(fd)
	}
}

func tail(s []string, n int) []string { return s[max(0, len(s)-n):] }

func difference(want, got []string) string {
	var b strings.Builder
	for _, x := range want {
		if !slices.Contains(got, x) {
			fmt.Fprintln(&b, "Linux: ", x)
		}
	}
	for _, x := range got {
		if !slices.Contains(want, x) {
			fmt.Fprintln(&b, "Sentry:", x)
		}
	}
	return b.String()
}
