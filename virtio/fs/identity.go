package fs

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// creator makes files belong to the guest's user that asked for them. Ids of the
// file system are a thread's own (credentials(7)): the thread takes them on for
// one system call, with the capabilities that Linux takes away on the way, so
// that a group that only the guest knows of does not stand in its way.
//
// A VMM without CAP_SETUID and CAP_SETGID makes every file its own; the guest's
// chown then fails as the host says.
type creator struct {
	able  bool
	umask uint32 // the process's, which hides bits that the guest asked for
}

func newCreator() (*creator, error) {
	c := &creator{}
	caps, err := capabilities()
	if err != nil {
		return nil, err
	}
	const needed = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
	c.able = caps[0].Effective&needed == needed
	c.umask, err = readUmask()
	return c, err
}

// capabilities are this thread's.
func capabilities() (caps [2]unix.CapUserData, err error) {
	if err = unix.Capget(capHeader(), &caps[0]); err != nil {
		err = fmt.Errorf("fs: read own capabilities: %w", err)
	}
	return caps, err
}

func capHeader() *unix.CapUserHeader {
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

// readUmask asks /proc because umask(2) only tells by setting it.
func readUmask() (uint32, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("fs: read own umask: %w", err)
	}
	_, rest, found := bytes.Cut(status, []byte("\nUmask:\t"))
	if !found {
		return 0, nil // before Linux 4.7
	}
	digits, _, _ := bytes.Cut(rest, []byte("\n"))
	mask, err := strconv.ParseUint(string(digits), 8, 32)
	if err != nil {
		return 0, fmt.Errorf("fs: read own umask from /proc/self/status: %w", err)
	}
	return uint32(mask), nil
}

// as runs create with uid and gid for the file system's ids.
func (c *creator) as(uid, gid uint32, create func() error) error {
	if !c.able || uid == 0 && gid == 0 {
		return create()
	}
	runtime.LockOSThread()
	if err := c.become(uid, gid); err != nil {
		return c.back(err)
	}
	return c.back(create())
}

func (c *creator) become(uid, gid uint32) error {
	// Now: the process may have given up some since it made the tree (vmm/share does), and
	// would ask for them again.
	caps, err := capabilities()
	if err != nil {
		return err
	}
	if err := setfs(unix.SetfsgidRetGid, gid); err != nil {
		return err
	}
	if err := setfs(unix.SetfsuidRetUid, uid); err != nil {
		return err
	}
	if uid == 0 {
		return nil
	}
	return unix.Capset(capHeader(), &caps[0])
}

// back makes the thread what it was. A thread that cannot be made so stays
// locked to a goroutine whose end is the thread's end (runtime.LockOSThread),
// which is not ours to bring about: it is an invariant that this works, for the
// ids that Linux lets a thread leave it also lets it come back to.
func (c *creator) back(result error) error {
	if err := setfs(unix.SetfsuidRetUid, uint32(os.Geteuid())); err != nil {
		panic(fmt.Sprintf("fs: take back the own user id: %v", err))
	}
	if err := setfs(unix.SetfsgidRetGid, uint32(os.Getegid())); err != nil {
		panic(fmt.Sprintf("fs: take back the own group id: %v", err))
	}
	runtime.UnlockOSThread()
	return result
}

// setfs sets an id and looks whether it took: setfsuid(2) has no error. An id
// that means nothing here (a user namespace that does not map it) is EINVAL, as
// it would be to chown(2).
func setfs(set func(int) (int, error), id uint32) error {
	if id == ^uint32(0) {
		return unix.EINVAL
	}
	if _, err := set(int(id)); err != nil {
		return err
	}
	now, err := set(-1)
	if err != nil {
		return err
	}
	if uint32(now) != id {
		return unix.EINVAL
	}
	return nil
}
