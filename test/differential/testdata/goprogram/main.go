// goprogram NAME runs one case; goprogram -l lists them. A case prints what is
// the same in every run on Linux.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var cases = []struct {
	name string
	run  func()
}{
	{"goroutines", goroutines},
	{"timers", timers},
	{"collector", collector},
	{"child_processes", childProcesses},
	{"unix_sockets", unixSockets},
	{"files", files},
	{"signals", signals},
	{"preemption", preemption},
	{"panics", panics},
	{"sandboxed_child", sandboxedChild},
	{"nil_pointer", nilPointer},
	{"tcp_echo", tcpEcho},
	{"tcp_deadlines", tcpDeadlines},
	{"udp_packets", udpPackets},
	{"http_server", httpServer},
	{"interfaces", interfaces},
}

func main() {
	switch os.Args[1] {
	case "sandboxed":
		sandboxed()
		return
	case "host":
		host(os.Args[2])
		return
	}
	if os.Args[1] == "terminates" {
		terminates()
	}
	for _, c := range cases {
		switch os.Args[1] {
		case "-l":
			fmt.Println(c.name)
		case c.name:
			c.run()
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func goroutines() {
	var sum atomic.Int64
	var group sync.WaitGroup
	requests := make(chan int)
	for range 50 {
		group.Go(func() {
			for n := range requests {
				sum.Add(int64(n))
			}
		})
	}
	for i := range 20000 {
		requests <- i
	}
	close(requests)
	group.Wait()
	fmt.Println(sum.Load())
	// Blocking calls take threads of their own.
	for range 40 {
		group.Go(func() {
			r, w, err := os.Pipe()
			check(err)
			go func() { w.Write([]byte("x")); w.Close() }()
			b, err := io.ReadAll(r)
			check(err)
			sum.Add(int64(len(b)))
		})
	}
	group.Wait()
	fmt.Println(sum.Load())
}

func timers() {
	// Which goroutine is first of two that are both due is the scheduler's choice.
	var fired []int
	var mutex sync.Mutex
	var group sync.WaitGroup
	began := time.Now()
	for i := 5; i > 0; i-- {
		group.Add(1)
		after := time.Duration(i) * 40 * time.Millisecond
		time.AfterFunc(after, func() {
			mutex.Lock()
			defer mutex.Unlock()
			if time.Since(began) >= after {
				fired = append(fired, i)
			}
			group.Done()
		})
	}
	group.Wait()
	slices.Sort(fired)
	fmt.Println(fired)
	ticker := time.NewTicker(time.Millisecond)
	for range 20 {
		<-ticker.C
	}
	start := time.Now()
	time.Sleep(10 * time.Millisecond)
	fmt.Println(time.Since(start) >= 10*time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	<-ctx.Done()
	fmt.Println(ctx.Err())
}

type node struct {
	left, right *node
	value       [4]int
}

func tree(depth int) *node {
	if depth == 0 {
		return &node{value: [4]int{1, 2, 3, 4}}
	}
	return &node{left: tree(depth - 1), right: tree(depth - 1)}
}

func (n *node) count() int {
	if n == nil {
		return 0
	}
	return 1 + n.left.count() + n.right.count()
}

func collector() {
	debug.SetGCPercent(20)
	var group sync.WaitGroup
	var sum atomic.Int64
	for range 4 {
		group.Go(func() {
			for range 20 {
				sum.Add(int64(tree(12).count()))
			}
		})
	}
	group.Wait()
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Println(sum.Load(), m.NumGC > 2)
}

func childProcesses() {
	var group sync.WaitGroup
	out := make([]string, 10)
	for i := range out {
		group.Go(func() {
			b, err := exec.Command("/bin/sh", "-c", fmt.Sprintf("echo child %d; exit %d", i, i%3)).CombinedOutput()
			out[i] = fmt.Sprintf("%q %v", b, err)
		})
	}
	group.Wait()
	fmt.Println(strings.Join(out, "\n"))
	_, err := exec.Command("/no/such/program").Output()
	fmt.Println(err)
	cmd := exec.Command("cat")
	cmd.Stdin = strings.NewReader(strings.Repeat("line\n", 50000))
	b, err := cmd.Output()
	fmt.Println(len(b), err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	fmt.Println(exec.CommandContext(ctx, "sleep", "100").Run())
}

func unixSockets() {
	dir, err := os.MkdirTemp("", "go")
	check(err)
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	check(err)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	var group sync.WaitGroup
	var sum atomic.Int64
	for i := range 20 {
		group.Go(func() {
			c, err := net.Dial("unix", l.Addr().String())
			check(err)
			defer c.Close()
			r := bufio.NewReader(c)
			for k := range 50 {
				fmt.Fprintf(c, "%d %d\n", i, k)
				line, err := r.ReadString('\n')
				check(err)
				sum.Add(int64(len(line)))
			}
		})
	}
	group.Wait()
	fmt.Println(sum.Load())
	c, err := net.Dial("unix", l.Addr().String())
	check(err)
	c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	_, err = c.Read(make([]byte, 1))
	fmt.Println(os.IsTimeout(err))
	check(l.Close())
	_, err = net.Dial("unix", filepath.Join(dir, "s"))
	fmt.Println(err != nil)
}

func files() {
	dir, err := os.MkdirTemp("", "go")
	check(err)
	defer os.RemoveAll(dir)
	check(os.Chdir(dir))
	for i := range 100 {
		check(os.MkdirAll(fmt.Sprintf("d%d/sub", i%10), 0o755))
		check(os.WriteFile(fmt.Sprintf("d%d/sub/f%d", i%10, i), []byte(strings.Repeat("x", i*100)), 0o644))
	}
	sum := sha256.New()
	var names []string
	check(filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		check(err)
		names = append(names, name)
		if entry.Type().IsRegular() {
			f, err := os.Open(name)
			check(err)
			defer f.Close()
			_, err = io.Copy(sum, f)
			check(err)
		}
		return nil
	}))
	fmt.Println(len(names), slices.IsSorted(names), fmt.Sprintf("%x", sum.Sum(nil)))
	_, err = os.Open("none")
	fmt.Println(err)
	check(os.Rename("d0", "moved"))
	check(os.Symlink("moved/sub", "link"))
	entries, err := os.ReadDir("link")
	check(err)
	fmt.Println(len(entries))
	src, err := os.Open("moved/sub/f90")
	check(err)
	dst, err := os.Create("copy")
	check(err)
	n, err := io.Copy(dst, src) // copy_file_range, sendfile or splice
	fmt.Println(n, err)
	root, err := os.OpenRoot(dir)
	check(err)
	_, err = root.Open("../../etc/passwd")
	fmt.Println(err)
	now := time.Unix(1000, 5000)
	check(os.Chtimes("copy", now, now))
	info, err := os.Stat("copy")
	check(err)
	fmt.Println(info.ModTime().UnixNano(), info.Mode(), info.Size())
}

func signals() {
	c := make(chan os.Signal, 10)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGWINCH)
	for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGWINCH} {
		check(syscall.Kill(os.Getpid(), s))
		fmt.Println(<-c)
	}
	signal.Reset()
	signal.Ignore(syscall.SIGUSR1)
	check(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	fmt.Println("alive")
	// In a child, for a sandbox spares its PID 1, as Linux does.
	fmt.Println(exec.Command(os.Args[0], "terminates").Run())
}

func terminates() {
	check(syscall.Kill(os.Getpid(), syscall.SIGTERM))
	select {}
}

// preemption needs SIGURG to reach threads that never call: the loop has no safe point.
func preemption() {
	runtime.GOMAXPROCS(1)
	var stop atomic.Bool
	n := 0
	go func() {
		time.Sleep(time.Millisecond)
		stop.Store(true)
	}()
	for !stop.Load() {
		for range 1000 {
			n++
		}
	}
	fmt.Println(n > 0)
}

func panics() {
	defer func() { fmt.Println("recovered:", recover()) }()
	var list []int
	fmt.Println(list[5])
}

func nilPointer() {
	func() {
		defer func() { fmt.Println("recovered:", recover()) }()
		var n *node
		fmt.Println(n.value[0])
	}()
	zero := 0
	func() {
		defer func() { fmt.Println("recovered:", recover()) }()
		fmt.Println(1 / zero)
	}()
	os.Exit(42)
}

// sandboxedChild starts a child in namespaces of its own, as browsers and build
// tools do.
func sandboxedChild() {
	cmd := exec.Command("/proc/self/exe", "sandboxed")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	check(cmd.Run())
	fmt.Println(cmd.ProcessState)
	cmd = exec.Command("/proc/self/exe", "sandboxed")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS, Chroot: "/"}
	check(cmd.Run())
}

func sandboxed() {
	fmt.Println(os.Getpid() == 1, os.Getppid() == 0, os.Getuid(), os.Getgid())
	check(syscall.Sethostname([]byte("child")))
	fmt.Println(os.Hostname())
	dir := "/proc"
	check(syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	check(syscall.Mount("x", dir, "tmpfs", 0, "size=64k"))
	check(os.WriteFile(dir+"/f", []byte("text"), 0o600))
	var st syscall.Stat_t
	check(syscall.Stat(dir+"/f", &st))
	fmt.Println(st.Uid, st.Gid)
	check(syscall.Unmount(dir, syscall.MNT_DETACH))
}

// host talks to a server on the host's side of dir, which then swaps links in
// dir/config.
func host(dir string) {
	fd, err := syscall.InotifyInit()
	check(err)
	config := dir + "/config"
	_, err = syscall.InotifyAddWatch(fd, config, syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_DELETE)
	check(err)
	text, err := os.ReadFile(config + "/key")
	fmt.Println(string(text), err)
	check(os.WriteFile(config+"/mine", nil, 0o644)) // told once
	c, err := net.Dial("unix", dir+"/socket")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.RemoteAddr().String() == dir+"/socket")
	c.Write([]byte("question "))
	check(c.(*net.UnixConn).CloseWrite())
	b, err := io.ReadAll(c)
	fmt.Println(len(b), string(b[:18]), err)
	buffer := make([]byte, 4096)
	for last := ""; last != "..data"; {
		n, err := syscall.Read(fd, buffer)
		check(err)
		for b := buffer[:n]; len(b) > 0; {
			size := int(b[12]) | int(b[13])<<8
			last = strings.TrimRight(string(b[16:16+size]), "\x00")
			fmt.Printf("%x%02x%02x%02x %s\n", b[7], b[6], b[5], b[4], last)
			b = b[16+size:]
		}
	}
	text, err = os.ReadFile(config + "/key")
	fmt.Println(string(text), err)
	_, err = net.Dial("unix", config+"/key")
	fmt.Println(err.(*net.OpError).Err)
}
