// Package gofer is the process that holds a container's files: the root and the
// bind mounts, an attachment each. It does what the Sentry asks for by
// sentry/gofer/wire and hands back descriptors of regular files, which the
// Sentry then reads, writes and maps itself.
//
// The Sentry may have been broken into, so that every request is taken for
// hostile. What bounds it, from inside out:
//
//   - names are single components; each is opened beneath its directory and never
//     followed (openat2, RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS|RESOLVE_NO_MAGICLINKS);
//   - an attachment's read-only flag is checked for each request;
//   - only descriptors of regular files and connected sockets go out, never
//     of a directory;
//   - each attachment is a detached copy of its mount tree, nodev, nosuid,
//     nosymfollow and read-only if it is to be, so that `..` ends at its root;
//   - file systems that show the host's kernel, mounted beneath, are empty (shut.go);
//   - the process has an empty root, namespaces of its own, the capabilities of
//     file ownership alone and a list of system calls (jail.go, calls.go).
//
// Lock order: handles.mu alone.
package gofer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/jail"
	"bulkhead/sentry/gofer/wire"
)

// Descriptors that the runtime leaves open.
const (
	configFD = 3
	socketFD = 4
	logFD    = 7
)

// Config says which trees the gofer holds. Attachment 0 is the root; Mounts
// follow in their order; Overlay, if it is given, is the last.
type Config struct {
	Root    Mount   `json:"root"`
	Mounts  []Mount `json:"mounts,omitempty"`
	Overlay *Mount  `json:"overlay,omitempty"`
	Debug   bool    `json:"debug,omitempty"` // a call off the list shows stacks
}

// Mount is one attachment.
type Mount struct {
	Source      string `json:"source"`                // a path on the host
	Destination string `json:"destination,omitempty"` // in the container; not used here
	ReadOnly    bool   `json:"readonly,omitempty"`
	Exclusive   bool   `json:"exclusive,omitempty"` // nobody else changes it
	Recursive   bool   `json:"recursive,omitempty"` // with what is mounted beneath (rbind)
	Sockets     bool   `json:"sockets,omitempty"`   // the container may connect to the host's sockets in it
	Devices     bool   `json:"devices,omitempty"`   // the container may make device nodes in it
}

func (c *Config) attachments() []Mount {
	all := append([]Mount{c.Root}, c.Mounts...)
	if c.Overlay != nil {
		all = append(all, *c.Overlay)
	}
	return all
}

// ParseConfig reads what the runtime wrote.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("gofer: config: %w", err)
	}
	if n := len(c.attachments()); n > wire.MaxRoots {
		return c, fmt.Errorf("gofer: config: %d attachments, at most %d", n, wire.MaxRoots)
	}
	for i, m := range c.attachments() {
		if m.Source == "" || m.Source[0] != '/' {
			return c, fmt.Errorf("gofer: config: attachment %d: source %q is no absolute path", i, m.Source)
		}
	}
	return c, nil
}

// Main is the process. It ends when the Sentry's end of the socket closes.
func Main(args []string) int {
	out := os.NewFile(logFD, "log")
	if _, err := unix.FcntlInt(logFD, unix.F_GETFD, 0); err != nil {
		out = os.Stderr
	}
	level := new(slog.LevelVar)
	log := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level}))
	if err := run(log, level); err != nil {
		log.Error("gofer ends", "err", err)
		return 1
	}
	return 0
}

func run(log *slog.Logger, level *slog.LevelVar) error {
	if err := isolate(); err != nil {
		return err
	}
	startup := jail.StartupPages()
	raw, err := readConfig()
	if err != nil {
		return err
	}
	config, err := ParseConfig(raw)
	if err != nil {
		return err
	}
	if config.Debug {
		level.Set(slog.LevelDebug)
	}
	if err := wire.CheckSocket(socketFD); err != nil {
		return err
	}
	runtime.GOMAXPROCS(workers + 1)
	debug.SetGCPercent(20) // little lives long here; memory is dearer than its collection
	s, err := newServer(config.attachments(), log)
	if err != nil {
		return err
	}
	n := s.needs()
	n.debug = config.Debug
	if err := enterJail(n); err != nil {
		return err
	}
	// Not now: a collection would stand between the container and its first file.
	time.AfterFunc(500*time.Millisecond, func() {
		debug.FreeOSMemory()
		startup.Drop()
	})
	defer s.tell()
	return s.serve(socketFD)
}

// readConfig reads from the start: a memfd may stand at its end, and a process that
// has executed itself (isolate) reads it a second time.
func readConfig() ([]byte, error) {
	unix.Seek(configFD, 0, io.SeekStart) // a pipe has no start, and no second reader either
	f := os.NewFile(configFD, "config")
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 16<<20))
	if err == nil && len(b) == 0 {
		err = errors.New("is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("gofer: config on descriptor %d: %w", configFD, err)
	}
	return b, nil
}
