package fs

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A process that has made its tree gives up what that took; it goes on making files of the
// guest's users.
func TestCreatorWithLess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for files of others: run the tests as root")
	}
	c, err := newCreator()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "file")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with what it has left
		caps, err := capabilities()
		if err == nil {
			for _, set := range []*uint32{&caps[0].Effective, &caps[0].Permitted, &caps[0].Inheritable} {
				*set &^= 1 << unix.CAP_SYS_ADMIN
			}
			err = unix.Capset(capHeader(), &caps[0])
		}
		if err == nil {
			err = c.as(1000, 1001, func() error { return os.WriteFile(path, nil, 0o600) })
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Uid != 1000 || st.Gid != 1001 {
		t.Errorf("%v: the file is %d:%d's, want 1000:1001's", err, st.Uid, st.Gid)
	}
}
