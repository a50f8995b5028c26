// Package cache keeps what is slow to make outside the tree: unpacked packages,
// kernels, initramfs images. An entry is a directory that is made whole or not
// at all; its key names everything that it was made from, so it is never stale.
// Any entry may be deleted at any time at which nobody uses it.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Root is the directory of all entries: $XDG_CACHE_HOME/bulkhead, or
// ~/.cache/bulkhead.
func Root() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache: find a directory: %w: set XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "bulkhead"), nil
}

// Key is a short name for all of parts, in their order.
func Key(parts ...string) string {
	sum := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}

// Find is the entry kind/key, if it is there.
func Find(kind, key string) (dir string, found bool, err error) {
	root, err := Root()
	if err != nil {
		return "", false, err
	}
	dir = filepath.Join(root, kind, key)
	_, err = os.Stat(dir)
	if os.IsNotExist(err) {
		return dir, false, nil
	}
	return dir, err == nil, err
}

// Fill is the entry kind/key; fill makes it, in an empty directory, where it is
// not there. Of several processes that want one entry, one makes it and the
// others wait.
func Fill(ctx context.Context, kind, key string, fill func(dir string) error) (string, error) {
	dir, found, err := Find(kind, key)
	if err != nil || found {
		return dir, err
	}
	unlock, err := Lock(ctx, kind)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, found, err = Find(kind, key); err != nil || found {
		return dir, err
	}
	partial, err := os.MkdirTemp(filepath.Dir(dir), ".partial-")
	if err != nil {
		return "", fmt.Errorf("cache: make %s: %w", dir, err)
	}
	defer os.RemoveAll(partial)
	if err := fill(partial); err != nil {
		return "", err
	}
	if err := os.Chmod(partial, 0o755); err != nil {
		return "", fmt.Errorf("cache: make %s: %w", dir, err)
	}
	if err := os.Rename(partial, dir); err != nil {
		return "", fmt.Errorf("cache: make %s: %w", dir, err)
	}
	return dir, nil
}

// Lock holds the lock of kind, among all processes of this user, until unlock is
// called or the process ends.
func Lock(ctx context.Context, kind string) (unlock func(), err error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(root, kind), 0o755); err != nil {
		return nil, fmt.Errorf("cache: lock %s: %w", kind, err)
	}
	name := filepath.Join(root, kind, ".lock")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cache: lock %s: %w", name, err)
	}
	// flock(2) cannot be ended by a context. Who gives up leaves a goroutine that
	// waits on, lets go of the lock and ends. Asking again and again would be
	// simpler and unfair: who comes back at once would always be first.
	locked := make(chan error, 1)
	go func() { locked <- flock(file) }()
	select {
	case err := <-locked:
		if err != nil {
			file.Close()
			return nil, fmt.Errorf("cache: lock %s: %w", name, err)
		}
		return func() { file.Close() }, nil
	case <-ctx.Done():
		go func() { <-locked; file.Close() }()
		return nil, fmt.Errorf("cache: lock %s, which another process holds: %w", name, context.Cause(ctx))
	}
}

func flock(file *os.File) error {
	for {
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}
