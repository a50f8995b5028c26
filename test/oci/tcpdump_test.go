package oci

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTcpdump: what passes a container's interface is in a file that others can read, both
// ways; and who has none, or another, is told so.
func TestTcpdump(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) { testTcpdump(t, p) })
}

func testTcpdump(t *testing.T, p *program) {
	w := newWire(t)
	name := p.started(t, w.join, "sleep", "1000")
	file := filepath.Join(t.TempDir(), "pcap")
	cmd := exec.Command(p.args[0], append(p.args[1:len(p.args):len(p.args)], "tcpdump", "--count", "6", "--write", file, name)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	if line, err := said.ReadString('\n'); err != nil || !strings.Contains(line, "capturing on eth0 of "+name) {
		t.Fatalf("it says %q, %v", line, err)
	}
	if out, err := w.beyond("busybox", "ping", "-c", "3", "-i", "0.2", "10.77.0.2").CombinedOutput(); err != nil {
		t.Fatalf("ping: %v: %s", err, out)
	}
	line, _ := said.ReadString('\n')
	if err := cmd.Wait(); err != nil || !strings.Contains(line, "6 frames captured, 0 dropped") {
		t.Fatalf("%v, and it says %q", err, line)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	in, out := echoes(t, b)
	if in == 0 || out == 0 {
		t.Errorf("%d requests and %d answers in\n% x", in, out, b)
	}
	for _, row := range []struct{ flags, want string }{
		{"--interface eth9", `the container has no interface "eth9"; it has eth0`},
		{"--count -1", "--count not negative"},
		{"--write /missing/file", "/missing/file"},
	} {
		r := p.do(t, append(append([]string{"tcpdump"}, strings.Fields(row.flags)...), name)...)
		if r.Code == 0 || !strings.Contains(r.Err, row.want) || strings.Count(r.Err, "\n") != 1 {
			t.Errorf("%s: %s", row.flags, r)
		}
	}
}

// echoes counts the requests and the answers of ping in a pcap file.
func echoes(t *testing.T, b []byte) (requests, answers int) {
	t.Helper()
	const head, frameHead = 24, 16
	if len(b) < head || !bytes.Equal(b[:8], []byte{0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0}) || b[20] != 1 {
		t.Fatalf("no pcap file: % x", b[:min(len(b), head)])
	}
	for b = b[head:]; len(b) >= frameHead; {
		n := binary.LittleEndian.Uint32(b[8:])
		frame := b[frameHead : frameHead+n]
		b = b[frameHead+n:]
		if len(frame) > 34 && frame[12] == 8 && frame[13] == 0 && frame[23] == 1 {
			switch frame[34] {
			case 8:
				requests++
			case 0:
				answers++
			}
		}
	}
	return requests, answers
}
