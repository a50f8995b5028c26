package container

import (
	"context"
	"errors"
	"io"
	"os"

	"bulkhead/runtime/network"
	"bulkhead/runtime/sandbox"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Capture writes what passes the container's interface of that name, or its first, to w as a
// pcap file, until the container ends, most frames have been written (0: no end), or the
// context is done. It begins when begun is told the interface's name.
func (c *Container) Capture(ctx context.Context, name string, length, most int, w io.Writer, begun func(name string)) (n network.Counts, err error) {
	if s := c.Status(); s != specs.StateRunning && s != specs.StateCreated && s != Paused {
		return n, errors.New("capture: it is " + string(s))
	}
	pid := c.State.Sandbox.PID
	var capture *network.Capture
	err = sandbox.InNetworkOf(pid, func() (err error) {
		capture, err = network.OpenCapture(name, length)
		return err
	})
	if err != nil {
		return n, err
	}
	defer capture.Close()
	ended, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return n, err
	}
	defer unix.Close(ended)
	begun(capture.Interface)
	read, write, err := os.Pipe()
	if err != nil {
		return n, err
	}
	defer read.Close()
	defer context.AfterFunc(ctx, func() { write.Close() })()
	defer write.Close()
	return capture.Write(w, most, ended, int(read.Fd()))
}
