package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Change is a file's new content, beside that which it was planned from.
type Change struct {
	Path     string
	old, new content
}

// Write makes the change at once or not at all: the file is replaced by one with the same
// mode and owner, or removed. A file that has changed since it was read is left alone.
func (c Change) Write() error {
	now, err := read(c.Path)
	if err != nil {
		return err
	}
	if now.old != c.old {
		return fmt.Errorf("%s: has changed meanwhile; nothing was written to it", c.Path)
	}
	if !c.new.there {
		return os.Remove(c.Path)
	}
	dir := filepath.Dir(c.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".bulkhead-install-*")
	if err != nil {
		return err
	}
	err = errors.Join(c.fill(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), c.Path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("%s: %w", c.Path, err)
	}
	return nil
}

// fill makes f what the file shall be.
func (c Change) fill(f *os.File) error {
	mode := uint32(0o644)
	if c.old.there {
		var was unix.Stat_t
		if err := unix.Lstat(c.Path, &was); err != nil {
			return err
		}
		// The owner first: a change of owner takes set-id bits away (chown(2)).
		if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return err
		}
		mode = was.Mode & 0o7777
	}
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return err
	}
	if _, err := f.WriteString(c.new.text); err != nil {
		return err
	}
	return f.Sync()
}

// Diff is the change in the unified format (diff -u), with /dev/null where there is no file.
// All that lies between the first line that differs and the last is one hunk.
func (c Change) Diff() string {
	old, new := lines(c.old.text), lines(c.new.text)
	same := 0
	for same < len(old) && same < len(new) && old[same] == new[same] {
		same++
	}
	tail := 0
	for tail < len(old)-same && tail < len(new)-same && old[len(old)-1-tail] == new[len(new)-1-tail] {
		tail++
	}
	const around = 3
	before, after := min(same, around), min(tail, around)
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", nameOf(c.Path, c.old), nameOf(c.Path, c.new))
	fmt.Fprintf(&b, "@@ -%s +%s @@\n", extent(same-before, len(old)-tail+after), extent(same-before, len(new)-tail+after))
	put := func(sign string, some []string) {
		for _, line := range some {
			b.WriteString(sign + line)
			if !strings.HasSuffix(line, "\n") {
				b.WriteString("\n\\ No newline at end of file\n")
			}
		}
	}
	put(" ", old[same-before:same])
	put("-", old[same:len(old)-tail])
	put("+", new[same:len(new)-tail])
	put(" ", old[len(old)-tail:len(old)-tail+after])
	return b.String()
}

func nameOf(path string, c content) string {
	if !c.there {
		return os.DevNull
	}
	return path
}

// extent is a hunk's "line,count" of lines [from, to); an empty one names the line before it.
func extent(from, to int) string {
	if from == to {
		return fmt.Sprintf("%d,0", from)
	}
	return fmt.Sprintf("%d,%d", from+1, to-from)
}

// lines are text's, each with its end.
func lines(text string) []string { return slices.Collect(strings.Lines(text)) }
