package template

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestFacts: what was remembered is known, to others as well, and nothing else is.
func TestFacts(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	must(t, err)
	if s.Known([]int{1}) {
		t.Error("known before it was remembered")
	}
	must(t, s.Remember([]int{1}))
	must(t, s.Remember([]int{1}))
	other, err := Open(dir)
	must(t, err)
	if !other.Known([]int{1}) || other.Known([]int{2}) {
		t.Errorf("1 known: %v; 2: %v", other.Known([]int{1}), other.Known([]int{2}))
	}
	for i := range 3 * most {
		must(t, s.Remember(i))
	}
	must(t, s.prune())
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != most {
		t.Errorf("%d files are kept, %v", len(entries), err)
	}
}

// TestKey: another content or another word is another key; another file of the same
// content is not.
func TestKey(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "templates"))
	must(t, err)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	key := func(path string, words any) Key {
		k, err := s.Key([]*os.File{open(t, path)}, words)
		must(t, err)
		return k
	}
	a := write("a", "kernel")
	first := key(a, 1)
	if again := key(a, 1); again != first {
		t.Errorf("%s, then %s", first, again)
	}
	if other := key(write("b", "kernel"), 1); other != first {
		t.Error("the same content by another name is another key")
	}
	if key(a, 2) == first || key(a, []int{1}) == first {
		t.Error("other words are the same key")
	}
	old, err := os.Stat(a)
	must(t, err)
	write("a", "kerneL")
	must(t, os.Chtimes(a, old.ModTime(), old.ModTime())) // as if nothing had happened
	if key(a, 1) == first {
		t.Error("another content is the same key")
	}
}

// TestRace: of many that would make a template one does, and the rest have it or none.
func TestRace(t *testing.T) {
	s, err := Open(t.TempDir())
	must(t, err)
	const k = Key("k")
	var mu sync.Mutex
	made := 0
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			f, err := s.Find(k)
			if err == nil {
				defer f.Close()
				b := make([]byte, 8)
				if n, _ := f.Read(b); string(b[:n]) != "whole" {
					t.Errorf("%q is found", b[:n])
				}
				return
			}
			if !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			c, err := s.Claim(k)
			if err != nil {
				t.Error(err)
			}
			if c == nil {
				return
			}
			c.File.WriteString("wh")
			c.File.WriteString("ole")
			mu.Lock()
			made++
			mu.Unlock()
			if err := c.Keep(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	if c, err := s.Claim(k); c != nil || err != nil {
		t.Errorf("it can be made once more: %v", err)
	}
	s.Remove(k)
	c, err := s.Claim(k)
	if c == nil || err != nil {
		t.Fatalf("what is gone cannot be made again: %v", err)
	}
	c.Drop()
	if list, _ := filepath.Glob(filepath.Join(s.dir, "*"+unfinished)); list != nil {
		t.Errorf("%v stays", list)
	}
}

// TestLeftBehind: who was killed in the making leaves nothing that counts.
func TestLeftBehind(t *testing.T) {
	s, err := Open(t.TempDir())
	must(t, err)
	c, err := s.Claim("k")
	must(t, err)
	c.File.WriteString("half")
	if other, err := s.Claim("k"); other != nil || err != nil {
		t.Errorf("two make it: %v", err)
	}
	c.File.Close() // as the kernel does
	if c, err = s.Claim("k"); c == nil || err != nil {
		t.Fatal(err)
	}
	if info, err := c.File.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%v bytes are there already (%v)", info.Size(), err)
	}
	must(t, c.Keep())
}

// TestPrune: the ones that were used last stay.
func TestPrune(t *testing.T) {
	s, err := Open(t.TempDir())
	must(t, err)
	const n = most + 3
	for i := range n {
		c, err := s.Claim(Key(fmt.Sprint(i)))
		must(t, err)
		past := time.Now().Add(time.Duration(i-n) * time.Minute)
		must(t, os.Chtimes(c.File.Name(), past, past))
		must(t, c.Keep())
		if i == 1 {
			f, err := s.Find("0")
			must(t, err)
			f.Close()
		}
	}
	for i := range n {
		f, err := s.Find(Key(fmt.Sprint(i)))
		f.Close()
		if there, want := err == nil, i == 0 || i > n-most; there != want {
			t.Errorf("%d is there: %t", i, there)
		}
	}
}
