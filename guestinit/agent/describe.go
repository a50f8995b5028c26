package agent

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
)

// ticks are USER_HZ: what /proc counts time in, whatever the kernel's own clock does.
const ticks = 100

// describe tells of processes what ps shows. Those that have ended are left out. All
// numbers are the container's.
func describe(proc string, pids []int) []*rpc.Process {
	inner := map[int]int{}
	for _, pid := range pids {
		inner[pid] = innerPID(pid)
	}
	var list []*rpc.Process
	for _, pid := range pids {
		dir := fmt.Sprintf("%s/%d", proc, pid)
		p, parent, err := readProcess(dir)
		if err != nil {
			continue
		}
		p.Pid, p.Parent = int32(inner[pid]), int32(inner[parent]) // 0 is outside
		list = append(list, p)
	}
	return list
}

func readProcess(dir string) (p *rpc.Process, parent int, err error) {
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, 0, err
	}
	// The name may hold blanks and parentheses; what follows does not.
	end := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[end+1:]))
	if end < 0 || len(fields) < 22 {
		return nil, 0, fmt.Errorf("%s/stat: %q", dir, b)
	}
	number := func(i int) int64 { // by proc(5)'s count, from 3
		n, _ := strconv.ParseInt(fields[i-3], 10, 64)
		return n
	}
	p = &rpc.Process{State: fields[0], Threads: int32(number(20))}
	p.Cpu = (number(14) + number(15)) * int64(time.Second/ticks)
	p.Start = bootTime() + number(22)/ticks
	p.Memory = uint64(number(24)) * uint64(os.Getpagesize())
	if tty := uint64(number(7)); unix.Major(tty) >= 136 && unix.Major(tty) < 144 { // UNIX98_PTY_SLAVE_MAJOR
		p.Tty = fmt.Sprintf("pts/%d", (unix.Major(tty)-136)<<20|unix.Minor(tty))
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return nil, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 2 {
			n, _ := strconv.ParseUint(f[2], 10, 32) // the effective one
			switch f[0] {
			case "Uid:":
				p.Uid = uint32(n)
			case "Gid:":
				p.Gid = uint32(n)
			}
		}
	}
	const most = 64 << 10 // bytes; a container could make an answer too long to be sent
	if command, err := os.ReadFile(dir + "/cmdline"); err == nil && len(command) > 0 {
		p.Command = strings.Split(strings.ToValidUTF8(strings.TrimSuffix(string(command[:min(len(command), most)]), "\x00"), "\uFFFD"), "\x00")
	}
	exe, _ := os.Readlink(dir + "/exe")
	p.Exe = strings.ToValidUTF8(exe, "\uFFFD")
	return p, int(number(4)), nil
}

// bootTime is when the guest's clock of processes began, in seconds since 1970.
func bootTime() int64 {
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return 0
	}
	return time.Now().Add(-time.Duration(up.Nano())).Unix()
}
