package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/runtime/agent/rpc"
	"bulkhead/runtime/spec"
)

// A guest that others go on from has done before it is kept what all of them would do: its
// control group is made, the process that becomes the first container's init has started
// and waits for its configuration, and what Go learns when it meets a type for the first
// time is known to both programs (encoding/json's and protobuf's tables). In a copy that is
// pages which nobody writes to; done in each start it was two thirds of the guest's part
// (docs/results/microvm.md).

// spare is what waits for the first container.
type spare struct {
	stage *waiting
	group *group
}

// waiting is a stage without a configuration.
type waiting struct {
	pid                  int
	config, report, gate *os.File
	exited               chan struct{} // closed by the reaper
	status               unix.WaitStatus
}

// namespaces are what a container's init has of its own. A spare enters the last when it
// knows its container: the share is mounted by then, where all can see it.
const namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNS

// prepareSpare is for Hello, of a guest that will be a template.
func (s *server) prepareSpare() error {
	s.mu.Lock()
	there := s.spare != nil || s.begun
	s.mu.Unlock()
	if there {
		return nil // it called again
	}
	if err := errors.Join(rpc.Warm(), warmStage()); err != nil {
		return fmt.Errorf("learn the protocol's types: %w", err)
	}
	g, err := makeGroup("first")
	if err != nil {
		return err
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		g.remove()
		return err
	}
	defer null.Close()
	attr := &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(g.dir.Fd()), Cloneflags: namespaces &^ unix.CLONE_NEWNS}
	w, err := s.newStage([]string{StageName, spareWord}, [3]*os.File{null, null, null}, attr, nil)
	if err == nil {
		_, err = readReport(w.report) // it is warm
	}
	if err != nil {
		w.abandon()
		g.remove()
		return fmt.Errorf("start a spare process: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = &spare{w, g}
	return nil
}

// takeSpare is nil where there is none that lives.
func (s *server) takeSpare() *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp := s.spare
	s.spare = nil
	if sp == nil {
		return nil
	}
	select {
	case <-sp.stage.exited:
		go sp.drop()
		return nil
	default:
		return sp
	}
}

func (sp *spare) drop() {
	if sp != nil {
		sp.stage.abandon()
		sp.group.remove()
	}
}

// newStage starts this program again as a stage, by start or here. Forks happen under
// server.mu, so that none ends unknown.
func (s *server) newStage(args []string, stdio [3]*os.File, attr *syscall.SysProcAttr, where func(func() error) error) (_ *waiting, err error) {
	w := &waiting{exited: make(chan struct{})}
	defer func() {
		if err != nil {
			w.abandon()
		}
	}()
	var theirs [3]*os.File
	defer func() {
		for _, f := range theirs {
			if f != nil {
				f.Close()
			}
		}
	}()
	if w.config, theirs[0], err = socketPair(unix.SOCK_STREAM); err != nil {
		return nil, err
	}
	if w.report, theirs[1], err = socketPair(unix.SOCK_SEQPACKET); err != nil {
		return nil, err
	}
	if theirs[2], w.gate, err = os.Pipe(); err != nil {
		return nil, err
	}
	var fds []uintptr
	for _, f := range append(stdio[:], theirs[:]...) {
		fds = append(fds, f.Fd())
	}
	fork := func() (err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.pid, err = syscall.ForkExec("/proc/self/exe", args, &syscall.ProcAttr{Env: stageEnvironment, Files: fds, Sys: attr})
		if err != nil {
			return fmt.Errorf("start a process: %w", err)
		}
		s.stages[w.pid] = w
		return nil
	}
	if where == nil {
		return w, fork()
	}
	return w, where(fork)
}

// abandon ends a stage that nothing will come of.
func (w *waiting) abandon() {
	if w == nil {
		return
	}
	for _, f := range []*os.File{w.config, w.report, w.gate} {
		if f != nil {
			f.Close()
		}
	}
	if w.pid != 0 {
		_ = unix.Kill(w.pid, unix.SIGKILL) // ESRCH: it has ended by itself
	}
}

// configure tells a stage what to become, with other standard streams than it has, or with
// those. One that has ended says so by its report.
func (w *waiting) configure(text []byte, stdio []*os.File) error {
	defer w.config.Close()
	var rights []byte
	if len(stdio) > 0 {
		var fds []int
		for _, f := range stdio {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	err := unix.Sendmsg(int(w.config.Fd()), text[:1], rights, nil, unix.MSG_NOSIGNAL)
	if err == nil {
		_, err = w.config.Write(text[1:])
	}
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("configure the process: %w", err)
	}
	return nil
}

// mostStage is above what a configuration can have: it came in one message of the host's.
const mostStage = 64 << 20 // bytes

// receive reads a stage's configuration to its end, and takes on the streams that come with it.
func receive(fd int) ([]byte, error) {
	var all []byte
	b, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(3*4))
	for len(all) <= mostStage {
		n, oobn, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			unix.Close(fd)
			return all, err
		}
		all = append(all, b[:n]...)
		if oobn > 0 {
			if err := takeStreams(oob[:oobn]); err != nil {
				return nil, err
			}
		}
	}
	return nil, fmt.Errorf("more than %d bytes: %w", mostStage, unix.E2BIG)
}

func takeStreams(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d messages with streams: %w", len(messages), errors.Join(err, unix.EBADMSG))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 3 {
		return fmt.Errorf("%d streams: %w", len(fds), errors.Join(err, unix.EBADMSG))
	}
	for to, fd := range fds {
		if err := unix.Dup3(fd, to, 0); err != nil {
			return err
		}
		unix.Close(fd)
	}
	return nil
}

// beSpare is the spare's life before its configuration.
func (st *stage) beSpare() error {
	if err := warmStage(); err != nil {
		return err
	}
	return send(reportFD, report{}, -1)
}

// warmStage learns the types of a stage's configuration. What has a MarshalJSON of its own
// is learnt when that is called.
func warmStage() error {
	text, err := json.Marshal(&stage{Spec: spec.Of(&specs.Spec{Linux: &specs.Linux{}}), Process: &specs.Process{}})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, new(stage)); err != nil {
		return err
	}
	text, err = json.Marshal(report{Error: "none"})
	if err != nil {
		return err
	}
	return json.Unmarshal(text, new(report))
}
