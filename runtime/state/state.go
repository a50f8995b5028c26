// Package state is what the runtime remembers of containers between two of its
// commands: a directory for each under the root, with state.json in it, written
// atomically, a lock, the control socket and the sandbox's log. What can be
// asked of the host (does the process live?) is asked and not remembered.
//
// A directory is made by Create, with the lock held, and gone after Remove. One
// that lacks a readable state.json is the remains of a creation that was cut
// off; it is listed and removed like any other.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"bulkhead/runtime/agent"
	"bulkhead/runtime/cgroup"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// version is state.json's. A higher one is refused; there is no lower one yet.
const version = 1

// Files in a container's directory.
const (
	stateFile = "state.json"
	lockFile  = "lock"
	socket    = "control.sock"
	logFile   = "sandbox.log"
	console   = "console.log"
)

// Sentinels in runc's words, which containerd's shim looks for.
var (
	ErrNotExist = errors.New("container does not exist")
	ErrExist    = errors.New("container with given ID already exists")
)

// ErrForeign says that another program, or a newer version of this one, keeps its
// state there: docker gives all its runtimes one root.
var ErrForeign = errors.New("not a state of this program's")

// State is state.json.
type State struct {
	Version    int                  `json:"version"`
	ID         string               `json:"id"`
	OCIVersion string               `json:"ociVersion"`
	Bundle     string               `json:"bundle"`
	Rootfs     string               `json:"rootfs"`
	Created    time.Time            `json:"created"`
	Owner      int                  `json:"owner"`  // uid
	Status     specs.ContainerState `json:"status"` // creating, created, running; Status() says what is true now

	Sandbox Process `json:"sandbox"`
	Gofer   Process `json:"gofer"`

	Pod           string                `json:"pod,omitempty"`     // ID of the container in whose sandbox this one is
	Isolation     string                `json:"isolation"`         // sentry, vm
	Paused        bool                  `json:"paused,omitempty"`  // inside, by the sandbox; a Sentry of one container leaves it to the control group, which says so itself
	Pausing       bool                  `json:"pausing,omitempty"` // Paused is about to change, or was when who did it was killed
	Platform      string                `json:"platform,omitempty"`
	Terminal      bool                  `json:"terminal,omitempty"`
	Cgroup        *cgroup.Place         `json:"cgroup,omitempty"`        // nil: none was made
	Log           string                `json:"log,omitempty"`           // where the sandbox logs
	OverlayDir    string                `json:"overlayDir,omitempty"`    // made by us for --overlay=dir=…
	Resources     *specs.LinuxResources `json:"resources,omitempty"`     // as asked for
	MachineMemory int64                 `json:"machineMemory,omitempty"` // the limit that a machine was made with, bytes; 0: none
	Process       *specs.Process        `json:"process,omitempty"`       // init's, for exec to take after
	Hooks         *specs.Hooks          `json:"hooks,omitempty"`
	DiskSlots     int                   `json:"diskSlots,omitempty"` // that a machine was made with, for containers that come later
	Annotations   map[string]string     `json:"annotations,omitempty"`
	Network       *Network              `json:"network,omitempty"` // nil: the sandbox has taken nothing over
}

// Network is what a sandbox has taken over from a network namespace.
type Network struct {
	Path    string         `json:"path,omitempty"` // of a namespace that may outlive the container
	Devices []agent.Device `json:"devices"`
}

// Dir is the directory of one container.
type Dir struct {
	Path string
	lock *os.File
}

// name is what an ID can be (runc libcontainer, validateID), and a file name.
var name = regexp.MustCompile(`^[\w+.-]+$`)

// CheckID judges a container's name.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("container ID is empty")
	case len(id) > 255:
		return fmt.Errorf("container ID has %d characters, 255 are allowed", len(id))
	case id == "." || id == ".." || id[0] == '-' || !name.MatchString(id):
		return fmt.Errorf("container ID %q: only letters, digits, _ + - . are allowed, and no - first", id)
	}
	return nil
}

// Create makes the directory for a container and locks it.
func Create(root, id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d := &Dir{Path: filepath.Join(root, id)}
	if err := os.Mkdir(d.Path, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %s", ErrExist, id)
	} else if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := d.Lock(); err != nil {
		os.Remove(d.Path)
		return nil, err
	}
	return d, nil
}

// Open finds a container's directory.
func Open(root, id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	d := &Dir{Path: filepath.Join(root, id)}
	if _, err := os.Stat(d.Path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotExist, id)
	} else if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return d, nil
}

// List gives the IDs under root.
func List(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Lock waits for the container's lock.
func (d *Dir) Lock() error { return d.acquire(unix.LOCK_EX) }

// TryLock is EWOULDBLOCK when another command has the lock.
func (d *Dir) TryLock() error { return d.acquire(unix.LOCK_EX | unix.LOCK_NB) }

func (d *Dir) acquire(how int) error {
	path := filepath.Join(d.Path, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotExist, filepath.Base(d.Path))
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("lock %s: %w", path, err)
	}
	// Whoever had the lock may have removed the container, and another of its
	// name may be there now.
	var ours, there unix.Stat_t
	if unix.Fstat(int(f.Fd()), &ours) != nil || unix.Stat(path, &there) != nil || ours.Ino != there.Ino {
		f.Close()
		return fmt.Errorf("%w: %s", ErrNotExist, filepath.Base(d.Path))
	}
	d.lock = f
	return nil
}

// Held says whether the lock is ours.
func (d *Dir) Held() bool { return d.lock != nil }

// Unlock may be called without the lock.
func (d *Dir) Unlock() {
	if d.lock != nil {
		d.lock.Close()
		d.lock = nil
	}
}

// Socket is where the sandbox listens.
func (d *Dir) Socket() string { return filepath.Join(d.Path, socket) }

// Log is where the sandbox logs unless told otherwise.
func (d *Dir) Log() string { return filepath.Join(d.Path, logFile) }

// Console is what the kernel of a machine has printed.
func (d *Dir) Console() string { return filepath.Join(d.Path, console) }

// Load reads state.json.
func (d *Dir) Load() (*State, error) {
	path := filepath.Join(d.Path, stateFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("container %s: read state: %w", filepath.Base(d.Path), err)
	}
	s := new(State)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Version != version {
		return nil, fmt.Errorf("%s: has version %d, this program knows %d: %w", path, s.Version, version, ErrForeign)
	}
	return s, nil
}

// Save writes state.json, all of it or nothing.
func (d *Dir) Save(s *State) error {
	s.Version = version
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(d.Path, stateFile+".")
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(d.Path, stateFile))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// Empty tells a directory that has no more in it than Create makes and Remove takes last.
func (d *Dir) Empty() bool {
	entries, err := os.ReadDir(d.Path)
	return err == nil && (len(entries) == 0 || len(entries) == 1 && entries[0].Name() == lockFile)
}

// Remove deletes the directory and gives the lock up.
func (d *Dir) Remove() error {
	defer d.Unlock()
	// The lock file last: as long as it is there, so is the container.
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// And the state last but that, since it tells what else there is.
	for _, last := range []bool{false, true} {
		for _, e := range entries {
			if name := e.Name(); name != lockFile && (name == stateFile) == last {
				os.RemoveAll(filepath.Join(d.Path, name))
			}
		}
	}
	if err := os.RemoveAll(d.Path); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}
