package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/hwtest/lab"
	"bulkhead/vmm/e2e/exchange"
)

// The numbers of the sockets' tests: so many connections at once, and so many bytes each way
// over one of them, and over all of them together.
const (
	connections = 1000
	streamBytes = 64 << 20
	eachBytes   = streamBytes / connections
)

// guestProgram is the path of vmm/e2e/guest, in a directory of its own that guests can share.
func guestProgram(t *testing.T) string {
	t.Helper()
	return built(t, filepath.Join("share", "guest"), "build", "bulkhead/vmm/e2e/guest")
}

// TestVsock: a Linux guest's own sockets, by the package that people use, in both directions.
func TestVsock(t *testing.T) {
	busy(t)
	bin := filepath.Dir(guestProgram(t))
	if !inLinux(t, lab.Machine{}) {
		return
	}
	k := kernels(t)[0]
	cases := []struct {
		name        string
		connections int
		bytes       int64
	}{{"many", connections, eachBytes}, {"one", 1, streamBytes}}
	for _, c := range cases {
		t.Run("to the guest "+c.name, func(t *testing.T) {
			uds := filepath.Join(t.TempDir(), "vsock")
			v := start(t, k.with(fmt.Sprintf("/mnt/bin/guest listen 1000 %d %d", c.connections, c.bytes),
				"--share", "bin="+bin+",ro", "--vsock", "CID=7,uds="+uds)...)
			v.await("listening on 1000\r\n", 0)
			var conns []net.Conn
			for range c.connections {
				conns = append(conns, connect(t, uds, 1000))
			}
			exchangeAll(t, conns, c.bytes)
			if code := v.wait(); code != 0 || !strings.Contains(v.out.String(), fmt.Sprintf("%d connections\r\n", c.connections)) {
				t.Errorf("exit code %d", code)
			}
		})
		t.Run("to the host "+c.name, func(t *testing.T) {
			uds := filepath.Join(t.TempDir(), "vsock")
			l, err := net.Listen("unix", uds+"_2000")
			must(t, err)
			defer l.Close()
			v := start(t, k.with(fmt.Sprintf("/mnt/bin/guest dial 2000 %d %d", c.connections, c.bytes),
				"--share", "bin="+bin+",ro", "--vsock", "CID=7,uds="+uds)...)
			go func() { v.wait(); l.Close() }() // a guest that fails calls no more
			var conns []net.Conn
			for range c.connections {
				conn, err := l.Accept()
				must(t, err)
				conns = append(conns, conn)
			}
			exchangeAll(t, conns, c.bytes)
			if code := v.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		uds := filepath.Join(t.TempDir(), "vsock")
		code, out := run(t, k.with("/mnt/bin/guest dial 2001 1 1", "--share", "bin="+bin+",ro", "--vsock", "CID=7,uds="+uds)...)
		if code != 1 || !strings.Contains(out, "connection reset") && !strings.Contains(out, "connection refused") {
			t.Errorf("exit code %d, want 1 and a refusal", code)
		}
	})
}

// connect asks for a port of the guest: "CONNECT port", "OK port", and bytes.
func connect(t *testing.T, uds string, port int) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", uds)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = fmt.Fprintf(c, "CONNECT %d\n", port)
	must(t, err)
	// A byte at a time: what follows the line is the connection's.
	line, err := bufio.NewReaderSize(oneByte{c}, 16).ReadString('\n')
	must(t, err)
	if !strings.HasPrefix(line, "OK ") {
		t.Fatalf("CONNECT %d: %q", port, line)
	}
	return c
}

type oneByte struct{ io.Reader }

func (o oneByte) Read(b []byte) (int, error) { return o.Reader.Read(b[:min(1, len(b))]) }

// exchangeAll exchanges n bytes over every connection at once, and sees them end in order.
func exchangeAll(t *testing.T, conns []net.Conn, n int64) {
	t.Helper()
	done := make(chan error, len(conns))
	for i, c := range conns {
		go func() {
			defer c.Close()
			err := exchange.Do(c, n, uint64(1000+i))
			if err == nil {
				err = c.(*net.UnixConn).CloseWrite()
			}
			if err == nil {
				if _, end := c.Read(make([]byte, 1)); !errors.Is(end, io.EOF) {
					err = fmt.Errorf("%v after all was said", end)
				}
			}
			done <- err
		}()
	}
	for i := range conns {
		if err := <-done; err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}
