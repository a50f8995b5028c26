package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"

	"bulkhead/runtime/agent"

	"golang.org/x/sys/unix"
)

// The hidden verb of the process that makes a disk of a directory.
const (
	ImageVerb = "make-image"
	imageName = "bulkhead-image"
)

// MakeImage has a disk made: a file without a name, which is gone when nobody has it open. What
// it says when it fails is of the process, or of the program that knows the file system.
func MakeImage(ctx context.Context, r *agent.ImageRequest) (_ *os.File, err error) {
	config, err := memfd(r)
	if err != nil {
		return nil, err
	}
	defer config.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	words, told, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer words.Close()
	ours, theirs, err := pair(unix.SOCK_STREAM, "image")
	if err != nil {
		told.Close()
		return nil, err
	}
	defer ours.Close()
	// It dies with this thread, which is to live as long.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := start(imageName, ImageVerb, []*os.File{null, null, told, agent.ConfigFD: config, agent.FirstFD: theirs}, imageAttr())
	told.Close()
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", ImageVerb, err)
	}
	stop := context.AfterFunc(ctx, func() { p.Kill() })
	defer stop()
	disk, received := agent.ReceiveFile(ours, r.Type+" image")
	const most = 4096 // bytes
	text, _ := io.ReadAll(io.LimitReader(words, most))
	_, _ = io.Copy(io.Discard, words)
	state, err := p.Wait()
	switch {
	case err != nil:
	case ctx.Err() != nil:
		err = ctx.Err()
	case !state.Success():
		// One line, of printable characters: names of the directory's are among them.
		err = errors.New(agent.Words(strings.Join(strings.Fields(string(text)), " ")))
	case received != nil:
		err = received
	}
	if err != nil {
		if disk != nil {
			disk.Close()
		}
		return nil, err
	}
	return disk, nil
}

func imageAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
		Setsid:     true,
		Pdeathsig:  unix.SIGKILL,
	}
	if os.Geteuid() != 0 {
		addUser(attr)
	}
	return attr
}
