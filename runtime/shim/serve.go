package shim

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"bulkhead/runtime/program"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// serve is the shim that stays, until containerd asks for its end.
func (p Program) serve(f *flags) error {
	// A pipe that nobody reads any more is an error of a write, not our end. Heard, not
	// ignored: what we start would go on ignoring them.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE, unix.SIGHUP, unix.SIGINT)
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, unix.SIGTERM)

	if err := program.Beside(); err != nil {
		return err
	}
	l, err := listener()
	if err != nil {
		return err
	}
	logs := openLog("log")
	s := &service{
		program: p, flags: f, logs: logs, log: newLog(logs, f.debug), tasks: map[string]*taskState{}, done: make(chan struct{}),
		events: newPublisher(os.Getenv("TTRPC_ADDRESS"), f.namespace),
	}
	s.events.log = s.log
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return err
	}
	task.RegisterTTRPCTaskService(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), l) }()
	select {
	case <-s.done:
	case <-terminated:
		s.log.Warn("the shim was told to end; containerd deletes its containers")
	case err = <-served:
		return err
	}
	// Gone from its place first, so that nobody gives us a further container.
	if a, ok := l.Addr().(*net.UnixAddr); ok && strings.HasPrefix(a.Name, "/") {
		os.Remove(a.Name)
	}
	limited, cancel := context.WithTimeout(context.Background(), shutdownPatience)
	defer cancel()
	s.events.close(limited)
	if err := server.Shutdown(limited); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// listener is on the socket that start has made.
func listener() (net.Listener, error) {
	f := os.NewFile(socketFD, "socket")
	defer f.Close()
	unix.CloseOnExec(socketFD)
	l, err := net.FileListener(f)
	if err != nil {
		return nil, errors.New("descriptor 3 is no listening socket: this program is started by containerd, with start")
	}
	return l, nil
}

// openLog opens the pipe that containerd reads a shim's log from. Nothing may wait for
// containerd: lines that find no room are lost.
func openLog(path string) io.Writer {
	// For reading as well, so that it opens and stays when nobody else reads.
	fd, err := unix.Open(filepath.Clean(path), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return io.Discard
	}
	return logPipe(fd)
}

type logPipe int

func (l logPipe) Write(b []byte) (int, error) {
	unix.Write(int(l), b)
	return len(b), nil
}

func newLog(w io.Writer, debug bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey && len(groups) == 0 {
			a.Value = slog.StringValue(strings.ToLower(a.Value.String())) // as containerd's own lines have it
		}
		return a
	}}
	if debug {
		o.Level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, o))
}
