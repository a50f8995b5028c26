// Package template keeps guests that have booted, for others to go on from: a file
// for each kernel, init and configuration, named by a hash of all that. It knows
// nothing of what is in one; the sandbox that boots a guest writes it, and those that
// come after map it.
//
// A file appears under its name when it is whole, and never changes. Who is to make
// one is who gets the lock of the file that is not whole yet; others meanwhile do
// without. The hash has the host's boot in it: nothing is forced to the disk, and
// what a crash left half written is nobody's any more.
package template

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// most is how many are kept, those that were used last. One takes 40 MiB and more.
const most = 8

const (
	suffix     = ".template"
	unfinished = ".new"
	sumPrefix  = "sum-"
	factPrefix = "fact-"
)

// Store is a directory of templates. It holds nothing that is not made again.
type Store struct{ dir string }

// Open makes the directory if there is none.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	return &Store{dir}, nil
}

// Key names a template.
type Key string

// Key hashes the contents of files, and words: all that a guest depends on until its
// first container.
func (s *Store) Key(files []*os.File, words any) (Key, error) {
	h := sha256.New()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	h.Write(boot)
	for _, f := range files {
		sum, err := s.sum(f)
		if err != nil {
			return "", fmt.Errorf("templates: %s: %w", f.Name(), err)
		}
		io.WriteString(h, sum)
	}
	if err := json.NewEncoder(h).Encode(words); err != nil {
		return "", err
	}
	return Key(hex.EncodeToString(h.Sum(nil)[:16])), nil
}

// sum is the hash of a file's content. To read it all at every start would take
// longer than a guest's restore, so it is kept, for as long as the file's inode says
// that nobody has touched it: ctime cannot be set.
func (s *Store) sum(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, fmt.Sprintf("%s%x-%x-%x-%x-%x", sumPrefix, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()))
	if b, err := os.ReadFile(path); err == nil && len(b) == 2*sha256.Size {
		return string(b), nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, st.Size)); err != nil {
		return "", err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if err := replace(path, sum); err != nil {
		return "", err
	}
	return sum, nil
}

func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+unfinished)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (s *Store) path(k Key) string { return filepath.Join(s.dir, string(k)+suffix) }

// Known tells whether Remember has been given these words since the host booted.
func (s *Store) Known(words any) bool {
	path, err := s.fact(words)
	if err == nil {
		_, err = os.Stat(path)
	}
	return err == nil
}

// Remember keeps what was found out of this host and holds until it boots again.
func (s *Store) Remember(words any) error {
	path, err := s.fact(words)
	if err != nil {
		return err
	}
	return replace(path, "")
}

func (s *Store) fact(words any) (string, error) {
	key, err := s.Key(nil, words)
	return filepath.Join(s.dir, factPrefix+string(key)), err
}

// Find opens the template, for reading. It is fs.ErrNotExist if there is none.
func (s *Store) Find(k Key) (*os.File, error) {
	f, err := os.Open(s.path(k))
	if err == nil {
		now := time.Now()
		_ = os.Chtimes(f.Name(), now, now) // or it goes sooner than it should
	}
	return f, err
}

// Remove forgets a template that is no good. Those who have it go on.
func (s *Store) Remove(k Key) { os.Remove(s.path(k)) }

// Claim is a template in the making.
type Claim struct {
	File  *os.File // empty, to be written to
	store *Store
	key   Key
}

// Claim is nil where somebody else is making it.
func (s *Store) Claim(k Key) (*Claim, error) {
	path := s.path(k) + unfinished
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	if !s.mine(f, path, k) {
		f.Close()
		return nil, nil
	}
	if err := f.Truncate(0); err != nil { // what somebody left who was killed
		f.Close()
		return nil, fmt.Errorf("templates: %w", err)
	}
	return &Claim{f, s, k}, nil
}

// mine tells that f is locked by us and is still what path names, and that nobody has
// finished meanwhile.
func (s *Store) mine(f *os.File, path string, k Key) bool {
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	if err != nil || !os.SameFile(ours, there) {
		return false
	}
	if _, err = os.Stat(s.path(k)); !errors.Is(err, fs.ErrNotExist) {
		os.Remove(path)
		return false
	}
	return true
}

// Keep gives the template its name, and drops those that have not been used for longest.
func (c *Claim) Keep() error {
	defer c.File.Close()
	if err := os.Rename(c.File.Name(), c.store.path(c.key)); err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	return c.store.prune()
}

// Drop gives the claim up.
func (c *Claim) Drop() {
	os.Remove(c.File.Name())
	c.File.Close()
}

// prune removes what is too much or was left behind.
func (s *Store) prune() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("templates: %w", err)
	}
	kinds := map[string][]fs.FileInfo{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // another has removed it
		}
		switch name := e.Name(); {
		case strings.HasSuffix(name, suffix):
			kinds[suffix] = append(kinds[suffix], info)
		case strings.HasPrefix(name, sumPrefix) && !strings.HasSuffix(name, unfinished):
			kinds[sumPrefix] = append(kinds[sumPrefix], info)
		case strings.HasPrefix(name, factPrefix) && !strings.HasSuffix(name, unfinished):
			kinds[factPrefix] = append(kinds[factPrefix], info)
		case strings.HasSuffix(name, unfinished) && time.Since(info.ModTime()) > time.Hour:
			os.Remove(filepath.Join(s.dir, name))
		}
	}
	for kind, files := range kinds {
		slices.SortFunc(files, func(a, b fs.FileInfo) int { return cmp.Compare(b.ModTime().UnixNano(), a.ModTime().UnixNano()) })
		enough := most
		if kind == sumPrefix {
			enough = 4 * most
		}
		for _, f := range files[min(enough, len(files)):] {
			os.Remove(filepath.Join(s.dir, f.Name()))
		}
	}
	return nil
}
