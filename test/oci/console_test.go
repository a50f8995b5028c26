package oci

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// receiveTerminal listens at path; what it returns waits for the terminal's master.
func receiveTerminal(t *testing.T, path string) func() *os.File {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return func() *os.File {
		t.Helper()
		conn, err := listener.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		name, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := conn.ReadMsgUnix(name, control)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil || len(messages) != 1 {
			t.Fatalf("no descriptor came: %v", err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fds[0]), "terminal")
	}
}
