package shell

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func date(_ context.Context, s stdio, _ []string) error {
	_, err := fmt.Fprintln(s.out, time.Now().UTC().Format(time.UnixDate))
	return err
}

func env(_ context.Context, s stdio, args []string) error {
	if len(args) > 0 {
		return errUsage
	}
	_, err := fmt.Fprintln(s.out, strings.Join(s.env, "\n"))
	return err
}

func sleep(ctx context.Context, _ stdio, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	d, err := strconv.ParseFloat(args[0], 64)
	if err != nil || d < 0 {
		return errUsage
	}
	timer := time.NewTimer(time.Duration(d * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return exitError(128 + int(unix.SIGINT))
	}
}

func syncAll(context.Context, stdio, []string) error {
	unix.Sync()
	return nil
}

func nproc(_ context.Context, s stdio, _ []string) error {
	_, err := fmt.Fprintln(s.out, runtime.NumCPU())
	return err
}

func uname(_ context.Context, s stdio, args []string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	fields := [][]byte{u.Sysname[:], u.Nodename[:], u.Release[:], u.Version[:], u.Machine[:]}
	switch strings.Join(args, " ") {
	case "":
		fields = fields[:1]
	case "-n":
		fields = fields[1:2]
	case "-r":
		fields = fields[2:3]
	case "-m":
		fields = fields[4:]
	case "-a":
	default:
		return errUsage
	}
	var words []string
	for _, f := range fields {
		words = append(words, unix.ByteSliceToString(f))
	}
	_, err := fmt.Fprintln(s.out, strings.Join(words, " "))
	return err
}

// dmesg reads the kernel's log from its beginning; Documentation/ABI/testing/dev-kmsg.
func dmesg(_ context.Context, s stdio, _ []string) error {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	record := make([]byte, 8192) // CONSOLE_EXT_LOG_MAX
	for {
		n, err := unix.Read(fd, record)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EPIPE): // overwritten before we read it
			continue
		case err != nil:
			return err
		}
		fmt.Fprintln(s.out, kernelMessage(string(record[:n])))
	}
}

// kernelMessage is "6,339,5140900,-;text\n SUBSYSTEM=acpi" as "[    5.140900] text".
func kernelMessage(record string) string {
	head, text, _ := strings.Cut(record, ";")
	text, _, _ = strings.Cut(text, "\n")
	fields := strings.Split(head, ",")
	if len(fields) < 3 {
		return text
	}
	micros, err := strconv.ParseUint(fields[2], 10, 64)
	if err != nil {
		return text
	}
	return fmt.Sprintf("[%5d.%06d] %s", micros/1e6, micros%1e6, text)
}

func free(_ context.Context, s stdio, _ []string) error {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	const rows = 5 // MemTotal, MemFree, MemAvailable, Buffers, Cached
	_, err = s.out.Write(bytes.Join(bytes.SplitAfterN(b, []byte("\n"), rows+1)[:rows], nil))
	return err
}

func df(_ context.Context, s stdio, _ []string) error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "source\ttype\tKiB\tused\tfree\ton")
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		var fs unix.Statfs_t
		if len(fields) < 3 || unix.Statfs(fields[1], &fs) != nil || fs.Blocks == 0 {
			continue
		}
		kib := func(blocks uint64) uint64 { return blocks * uint64(fs.Bsize) >> 10 }
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\n", fields[0], fields[2],
			kib(fs.Blocks), kib(fs.Blocks-fs.Bfree), kib(fs.Bavail), fields[1])
	}
	return w.Flush()
}

// mount passes options on as they are but for ro and bind: a guest's mounts
// are its configuration's business, this is for looking around.
func mount(_ context.Context, s stdio, args []string) error {
	if len(args) == 0 {
		b, err := os.ReadFile("/proc/self/mounts")
		if err == nil {
			_, err = s.out.Write(b)
		}
		return err
	}
	var fstype, data string
	var flags uintptr
	for len(args) > 2 && (args[0] == "-t" || args[0] == "-o") {
		if args[0] == "-t" {
			fstype = args[1]
		} else {
			flags, data = mountOptions(args[1])
		}
		args = args[2:]
	}
	if len(args) != 2 {
		return errUsage
	}
	return unix.Mount(args[0], s.path(args[1]), fstype, flags, data)
}

func mountOptions(options string) (flags uintptr, data string) {
	var rest []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "":
		case "ro":
			flags |= unix.MS_RDONLY
		case "bind":
			flags |= unix.MS_BIND
		case "remount":
			flags |= unix.MS_REMOUNT
		default:
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ",")
}

func umount(_ context.Context, s stdio, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	for _, dir := range args {
		if err := unix.Unmount(s.path(dir), 0); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// ask asks PID 1, which takes busybox's signals (guestinit/boot, requests).
func ask(what string) func(context.Context, stdio, []string) error {
	signals := map[string]unix.Signal{"halt": unix.SIGUSR1, "poweroff": unix.SIGUSR2, "reboot": unix.SIGTERM}
	return func(context.Context, stdio, []string) error { return unix.Kill(1, signals[what]) }
}

func kill(_ context.Context, _ stdio, args []string) error {
	signal := unix.SIGTERM
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name := strings.ToUpper(args[0][1:])
		n, err := strconv.Atoi(name)
		if signal = unix.Signal(n); err != nil {
			signal = unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG"))
		}
		if signal == 0 && name != "0" {
			return errUsage
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return errUsage
	}
	for _, arg := range args {
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return errUsage
		}
		if err := unix.Kill(pid, signal); err != nil {
			return fmt.Errorf("%d: %w", pid, err)
		}
	}
	return nil
}

func ps(_ context.Context, s stdio, _ []string) error {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	slices.SortFunc(files, func(a, b string) int { // as numbers
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "pid\tparent\tstate\tcommand")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fmt.Fprintln(w, processLine(string(b), filepath.Dir(file)))
	}
	return w.Flush()
}

// processLine is from proc_pid_stat(5), where the name may hold anything, and
// from the command line, which a kernel thread has none of.
func processLine(stat, dir string) string {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return ""
	}
	rest := strings.Fields(stat[end+1:])
	if len(rest) < 2 {
		return ""
	}
	name := "[" + stat[open+1:end] + "]"
	if line, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(line) > 0 {
		name = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	}
	return strings.TrimSpace(stat[:open]) + "\t" + rest[1] + "\t" + rest[0] + "\t" + name
}

// ip shows links, addresses and routes. What sets them is the configuration.
func ip(_ context.Context, s stdio, args []string) error {
	what := "addr"
	if len(args) > 0 {
		what = args[0]
	}
	if len(args) > 2 || len(args) == 2 && !strings.HasPrefix("show", args[1]) {
		return errUsage
	}
	switch {
	case strings.HasPrefix("route", what):
		return showRoutes(s)
	case strings.HasPrefix("address", what), strings.HasPrefix("link", what):
		return showLinks(s)
	}
	return errUsage
}

func showLinks(s stdio) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, link := range links {
		a := link.Attrs()
		fmt.Fprintf(s.out, "%d: %s mtu %d %s %s\n", a.Index, a.Name, a.MTU, a.Flags, a.HardwareAddr)
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			fmt.Fprintf(s.out, "    %v\n", addr.IPNet)
		}
	}
	return nil
}

func showRoutes(s stdio) error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range routes {
		fmt.Fprintln(s.out, r)
	}
	return nil
}
