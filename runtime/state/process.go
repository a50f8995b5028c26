package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Process names a process of the host's beyond the reuse of its number.
type Process struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // ticks after boot, field 22 of /proc/PID/stat
}

// Find makes a Process of a child that has not been waited for.
func Find(pid int) (Process, error) {
	_, start, err := stat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return Process{pid, start}, nil
}

// Alive says whether it still runs: a zombie does not.
func (p Process) Alive() bool {
	if p.PID == 0 {
		return false
	}
	state, start, err := stat(p.PID)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// Parent is the process that a process is the child of.
func Parent(pid int) (int, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // field 3 and on
	if len(fields) < 2 {
		return 0, errStat
	}
	return strconv.Atoi(string(fields[1]))
}

var errStat = errors.New("unexpected /proc/PID/stat")

func stat(pid int) (state byte, start uint64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(b)
}

// parseStat knows that the command's name, in brackets, may contain anything.
func parseStat(b []byte) (state byte, start uint64, err error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, 0, errStat
	}
	fields := bytes.Fields(b[i+1:]) // from field 3, the state, on
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, errStat
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return fields[0][0], start, err
}

// Signal sends the host's signal n. ESRCH says that the process is gone.
func (p Process) Signal(n unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !p.Alive() { // the descriptor may be of the number's next owner
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, n, nil, 0)
}

// WaitGone waits until the process has ended, which need not be our child, and
// says whether it did in time.
func (p Process) WaitGone(limit time.Duration) bool {
	if !p.Alive() {
		return true
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return !p.Alive()
	}
	defer unix.Close(fd)
	end := time.Now().Add(limit)
	for p.Alive() {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return !p.Alive()
		}
	}
	return true
}
