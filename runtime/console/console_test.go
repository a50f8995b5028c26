package console

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func pty(t *testing.T, rows, columns uint16) *Pty {
	t.Helper()
	p, err := New(rows, columns)
	if err != nil {
		t.Skipf("needs /dev/ptmx: %v", err)
	}
	t.Cleanup(p.Close)
	return p
}

// Bytes pass in both directions as they are.
func TestRaw(t *testing.T) {
	p := pty(t, 24, 80)
	if rows, columns, err := Size(p.Slave); err != nil || rows != 24 || columns != 80 {
		t.Errorf("size %d by %d, %v", rows, columns, err)
	}
	if !IsTerminal(p.Slave) {
		t.Error("the slave is no terminal")
	}
	for _, row := range []struct{ from, to *os.File }{{p.Master, p.Slave}, {p.Slave, p.Master}} {
		want := []byte("a\r\n\x03\x04\x7f")
		if _, err := row.from.Write(want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(row.to, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

func TestSend(t *testing.T) {
	p := pty(t, 0, 0)
	path := filepath.Join(t.TempDir(), "s")
	if err := p.Send(path); err == nil {
		t.Error("Send to nobody is no error")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := p.Send(path); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data, oob := make([]byte, 100), make([]byte, 100)
	n, oobn, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil || string(data[:n]) != p.Slave.Name() {
		t.Errorf("%q, %v, want %s", data[:n], err, p.Slave.Name())
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		t.Fatalf("%v, %v", msgs, err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	master := os.NewFile(uintptr(fds[0]), "master")
	defer master.Close()
	if err := Resize(master, 5, 6); err != nil {
		t.Fatal(err)
	}
	if rows, columns, _ := Size(p.Slave); rows != 5 || columns != 6 {
		t.Errorf("%d by %d", rows, columns)
	}
}

// A person's terminal (a pty here) is raw while attached, hands its size on, and
// is as before afterwards, with all that was printed.
func TestAttach(t *testing.T) {
	person, inner := pty(t, 30, 90), pty(t, 0, 0)
	before, err := unix.IoctlGetTermios(int(person.Slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	changed := *before
	changed.Lflag |= unix.ICANON
	if err := unix.IoctlSetTermios(int(person.Slave.Fd()), unix.TCSETS, &changed); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	in, typing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	p, err := Attach(person.Slave, in, &out, inner.Master)
	if err != nil {
		t.Fatal(err)
	}
	typing.Write([]byte("typed"))
	typing.Close()
	got := make([]byte, 5)
	if _, err := io.ReadFull(inner.Slave, got); err != nil || string(got) != "typed" {
		t.Errorf("%q, %v", got, err)
	}
	inner.Slave.Write([]byte("printed"))
	now, _ := unix.IoctlGetTermios(int(person.Slave.Fd()), unix.TCGETS)
	if now.Lflag&unix.ICANON != 0 {
		t.Error("not raw while attached")
	}
	inner.Slave.Close()
	p.Finish()
	if out.String() != "printed" {
		t.Errorf("printed %q", out.String())
	}
	if rows, columns, _ := Size(inner.Master); rows != 30 || columns != 90 {
		t.Errorf("size %d by %d", rows, columns)
	}
	after, _ := unix.IoctlGetTermios(int(person.Slave.Fd()), unix.TCGETS)
	if *after != changed {
		t.Errorf("left as %+v, was %+v", after, changed)
	}
}
