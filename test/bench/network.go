package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed testdata/serve.c
var serve []byte

// cable is two network namespaces with a veth between them: a server is inside, in a container or
// natively, and who talks to it is outside, natively always.
type cable struct{ inside, outside string }

const (
	servers = "10.99.0.2" // address inside
	echo    = 7007        // ports
	web     = 8080
	streams = 5201
)

func newCable() (c cable, err error) {
	name := fmt.Sprintf("bench-%d-", os.Getpid())
	c = cable{name + "in", name + "out"}
	for _, words := range []string{
		"netns add " + c.inside, "netns add " + c.outside,
		"-n " + c.outside + " link add eth0 type veth peer name eth0 netns " + c.inside,
		"-n " + c.outside + " address add 10.99.0.1/24 dev eth0", "-n " + c.inside + " address add " + servers + "/24 dev eth0",
		"-n " + c.outside + " link set lo up", "-n " + c.inside + " link set lo up",
		"-n " + c.outside + " link set eth0 up", "-n " + c.inside + " link set eth0 up",
		// Each connection is from a port of its own, and there are more than any run makes.
		"netns exec " + c.outside + " sysctl -q net.ipv4.ip_local_port_range=1024\t65535 net.ipv4.tcp_tw_reuse=1",
	} {
		if out, err := exec.Command("ip", strings.Split(words, " ")...).CombinedOutput(); err != nil {
			c.close()
			return c, fmt.Errorf("ip %s: %w: %s", words, err, out)
		}
	}
	return c, nil
}

func (c cable) close() {
	for _, ns := range []string{c.inside, c.outside} {
		exec.Command("ip", "netns", "delete", ns).Run()
	}
}

// beyond runs f in the outer namespace, on a thread that ends with it.
func (c cable) beyond(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		fd, err := unix.Open("/var/run/netns/"+c.outside, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// dial connects to a port inside.
func dial(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{10, 99, 0, 2}}); err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1)
	}
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// ask sends a byte and waits until it comes back.
func ask(fd int) error {
	b := []byte{1}
	if _, err := unix.Write(fd, b); err != nil {
		return err
	}
	n, err := unix.Read(fd, b)
	if err == nil && n != 1 {
		err = errors.New("the server has closed the connection")
	}
	return err
}

// furnish puts the servers into a root: nginx and iperf3 as this machine has them, or not.
func furnish(dir, root string) error {
	source := filepath.Join(dir, "serve.c")
	if err := os.WriteFile(source, serve, 0o644); err != nil {
		return err
	}
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", filepath.Join(root, "bin/serve"), source).CombinedOutput(); err != nil {
		return fmt.Errorf("compile the server: %w\n%s", err, out)
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/group": "root:x:0:\n", "www/index.html": strings.Repeat("0123456789abcdefghi\n", 30),
		"nginx.conf": `daemon off; master_process off; user root root; pid tmp/nginx.pid; events { worker_connections 4096; }
http {
	access_log off; keepalive_requests 1000000;
	client_body_temp_path tmp/b; proxy_temp_path tmp/p; fastcgi_temp_path tmp/f; uwsgi_temp_path tmp/u; scgi_temp_path tmp/s;
	server { listen ` + strconv.Itoa(web) + ` backlog=4096; root www; }
}
`} {
		at := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"nginx", "iperf3"} {
		path, err := exec.LookPath(name)
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: no %s: its rows are left out\n", name)
			continue
		}
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", path, err)
		}
		files := map[string]string{path: "bin/" + name}
		for _, word := range strings.Fields(string(out)) {
			if filepath.IsAbs(word) {
				files[word] = word
			}
		}
		for from, to := range files {
			b, err := os.ReadFile(from)
			if err != nil {
				return err
			}
			at := filepath.Join(root, to)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(at, b, 0o755); err != nil {
				return err
			}
		}
	}
	return nil
}

// network measures servers in a column's container. One that this machine lacks has no rows.
func (t *table) network(c column, runs int) error {
	w, err := newCable()
	if err != nil {
		return err
	}
	defer w.close()
	c.netns = w.inside
	prefix := "/"
	if len(c.runtime) == 0 {
		prefix = c.root + "/"
	}
	for _, s := range []struct {
		port    int
		measure func(cable, column, *journal, int) error
		args    []string
	}{
		{echo, t.exchanges, []string{"bin/serve", strconv.Itoa(echo)}},
		{web, t.requests, []string{"bin/nginx", "-p", prefix, "-c", "nginx.conf", "-e", "stderr"}},
		{streams, t.bulk, []string{"bin/iperf3", "-s", "--forceflush", "-p", strconv.Itoa(streams)}},
	} {
		if _, err := os.Stat(filepath.Join(c.root, s.args[0])); err != nil {
			continue
		}
		err := w.with(c, s.port, s.args, func(said *journal) error { return s.measure(w, c, said, runs) })
		if err != nil {
			return fmt.Errorf("%s: %w", s.args[0], err)
		}
	}
	return nil
}

// journal is what a server prints.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// with runs a server while f is measured.
func (w cable) with(c column, port int, args []string, f func(*journal) error) error {
	id := fmt.Sprintf("server-%s-%d", c.name, port)
	cmd, err := c.command("run", id, args...)
	if err != nil {
		return err
	}
	var said journal
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		if len(c.runtime) == 0 {
			cmd.Process.Kill()
		} else {
			exec.Command(c.runtime[0], append(c.runtime[1:], "delete", "--force", id)...).Run()
		}
		<-ended
	}()
	if err := w.beyond(func() error { return listens(port, &said, ended) }); err != nil {
		return err
	}
	return f(&said)
}

// listens waits until somebody does at port.
func listens(port int, said *journal, ended chan error) error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		fd, err := dial(port)
		if err == nil {
			return unix.Close(fd)
		}
		if time.Now().After(end) {
			return fmt.Errorf("nobody listens: %w: %s", err, said)
		}
		select {
		case err := <-ended:
			ended <- err
			return fmt.Errorf("it ended: %w: %s", err, said)
		default:
		}
	}
}

// exchanges are of a byte: on one connection, and each on one of its own.
func (t *table) exchanges(w cable, c column, _ *journal, runs int) error {
	const period = 500 * time.Millisecond
	var trips, connections []float64
	err := w.beyond(func() error {
		fd, err := dial(echo)
		if err != nil {
			return err
		}
		for range runs {
			n, begin := 0, time.Now()
			for ; time.Since(begin) < period; n++ {
				if err := ask(fd); err != nil {
					return err
				}
			}
			trips = append(trips, float64(time.Since(begin))/float64(n))
		}
		unix.Close(fd)
		for range runs {
			n, begin := 0, time.Now()
			for ; time.Since(begin) < period; n++ {
				fd, err := dial(echo)
				if err != nil {
					return err
				}
				if err := ask(fd); err != nil {
					return err
				}
				unix.Close(fd)
			}
			connections = append(connections, float64(n)/time.Since(begin).Seconds())
		}
		return nil
	})
	t.add(c.name, "TCP round trip over a veth", "ns", trips)
	t.add(c.name, "TCP connections, one after another", "/s", connections)
	return err
}

var perSecond = regexp.MustCompile(`Requests/sec:\s*([0-9.]+)`)

// requests are wrk's, of a small page, on 32 connections.
func (t *table) requests(w cable, c column, _ *journal, runs int) error {
	var rates []float64
	for range runs {
		out, err := exec.Command("ip", "netns", "exec", w.outside, "wrk", "-t1", "-c32", "-d2s", fmt.Sprintf("http://%s:%d/", servers, web)).CombinedOutput()
		found := perSecond.FindSubmatch(out)
		if err != nil || found == nil || bytes.Contains(out, []byte("Socket errors")) || bytes.Contains(out, []byte("Non-2xx")) {
			return fmt.Errorf("wrk: %v: %s", err, out)
		}
		rate, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			return err
		}
		rates = append(rates, rate)
	}
	t.add(c.name, "nginx, requests of 600 bytes", "/s", rates)
	return nil
}

// bulk is iperf3's, in and out, and the processor time of both ends. After each client its server
// closes what it listens with, and whoever waits there is reset, and listens anew: that says when
// the next may come. The first client is the one that found the server (listens).
func (t *table) bulk(w cable, c column, said *journal, runs int) error {
	clients := 1
	for _, way := range []struct{ name, flag string }{{"into", ""}, {"out of", "-R"}} {
		var rates, costs []float64
		for range runs {
			for end := time.Now().Add(30 * time.Second); strings.Count(said.String(), "Server listening") <= clients; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					return fmt.Errorf("the server does not listen again: %s", said)
				}
			}
			clients++
			args := []string{"netns", "exec", w.outside, "iperf3", "-J", "-t", "2", "-p", strconv.Itoa(streams), "-c", servers}
			if way.flag != "" {
				args = append(args, way.flag)
			}
			cmd := exec.Command("ip", args...)
			before, _ := activity()
			out, err := cmd.Output()
			after, _ := activity()
			var told struct {
				Error string
				End   struct {
					Received struct {
						Bytes float64
						Rate  float64 `json:"bits_per_second"`
					} `json:"sum_received"`
				}
			}
			if e := json.Unmarshal(out, &told); err != nil || e != nil || told.End.Received.Bytes == 0 {
				return fmt.Errorf("iperf3: %v: %v: %s", err, e, told.Error)
			}
			rates = append(rates, told.End.Received.Rate/1e9)
			used := after - before + cmd.ProcessState.UserTime().Seconds() + cmd.ProcessState.SystemTime().Seconds()
			costs = append(costs, used/(told.End.Received.Bytes/(1<<30)))
		}
		t.add(c.name, "iperf3 "+way.name+" it", "Gbit/s", rates)
		t.add(c.name, "iperf3 "+way.name+" it, CPU of both ends", "s/GiB", costs)
	}
	return nil
}
