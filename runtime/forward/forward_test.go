package forward

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestListen: whichever port of loopback somebody asks for in the namespace, the listener has
// it, knows which, and has nothing but what comes to loopback.
func TestListen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a network namespace and BPF: sudo go test")
	}
	for _, program := range []string{"ip", "nsenter", "bash"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s: apt-get install iproute2 util-linux bash", program)
		}
	}
	holder := exec.Command("sh", "-c", "ip link set lo up && ip link add d0 type veth peer name d1 && ip address add 10.99.7.1/24 dev d0 && ip link set d0 up && ip link set d1 up && echo up && exec cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var complaint bytes.Buffer
	holder.Stderr = &complaint
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		holder.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal("make a network namespace: ", complaint.String())
	}
	pid := strconv.Itoa(holder.Process.Pid)
	l, err := Listen("/proc/" + pid + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	go l.Serve(func(conn *net.TCPConn) {
		conn.Write([]byte(strconv.Itoa(conn.LocalAddr().(*net.TCPAddr).Port) + "\n"))
		conn.Close()
	})
	ask := func(at string) string {
		host, port, _ := net.SplitHostPort(at)
		cmd := exec.Command("nsenter", "-t", pid, "-n", "bash", "-c", `exec 3<>/dev/tcp/$0/$1 && cat <&3`, host, port)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		b, err := cmd.Output()
		if err != nil {
			return complaint.String()
		}
		return strings.TrimSpace(string(b))
	}
	for _, row := range []struct{ at, want string }{
		{"127.0.0.1:80", "80"}, {"127.9.9.9:65535", "65535"}, {"[::1]:8080", "8080"}, {"localhost:1", "1"},
	} {
		if got := ask(row.at); got != row.want {
			t.Errorf("%s: %q, want %q", row.at, got, row.want)
		}
	}
	if got := ask("10.99.7.1:80"); !strings.Contains(got, "refused") {
		t.Errorf("an address that is not loopback's: %q", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	// The process stays where it is, whichever of its threads went there.
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		l, err := Listen("/proc/" + pid + "/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	if now, err := os.Readlink("/proc/self/ns/net"); now != home {
		t.Errorf("the process is in %s, was in %s, %v", now, home, err)
	}
	if got := ask("127.0.0.1:80"); !strings.Contains(got, "refused") {
		t.Errorf("after its end: %q", got)
	}
}
