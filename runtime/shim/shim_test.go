package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestShorten(t *testing.T) {
	for _, row := range []struct{ options, base, shorter string }{
		{"lowerdir=/s/1/fs:/s/22/fs,upperdir=/s/3/fs,workdir=/s/3/work", "/s", "lowerdir=1/fs:22/fs,upperdir=/s/3/fs,workdir=/s/3/work"},
		{"index=off,lowerdir=/a/b/c:/a/bc/d", "/a", "index=off,lowerdir=b/c:bc/d"},
		{"lowerdir=/a/b:/c/d", "", ""},
		{"ro", "", ""},
	} {
		base, shorter := shorten(strings.Split(row.options, ","))
		if base != row.base || shorter != row.shorter {
			t.Errorf("%s: %q, %q", row.options, base, shorter)
		}
	}
}

func overlay(options string) []*types.Mount {
	return []*types.Mount{{Type: "overlay", Source: "overlay", Options: strings.Split(options, ",")}}
}

// TestManyLayers mounts an overlay whose options are longer than a page.
func TestManyLayers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root")
	}
	dir := t.TempDir()
	options := "lowerdir="
	for n := range 100 {
		layer := filepath.Join(dir, fmt.Sprintf("snapshots-of-this-%03d", n), "fs")
		if err := os.MkdirAll(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(layer, fmt.Sprint(n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			options += ":"
		}
		options += layer
	}
	root := filepath.Join(dir, "rootfs")
	if err := mountRoot(overlay(options), root); err != nil {
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM) {
			t.Skipf("no overlay here (a kernel with it, as the host's root): %v", err)
		}
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 100 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	if err := unmountRoot(root); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 0 {
		t.Errorf("still mounted: %d files, %v", len(entries), err)
	}
}

// receiver is containerd's end of events. It fails the first calls.
type receiver struct {
	mu   sync.Mutex
	fail int
	got  []string
	all  chan struct{}
	want int
}

func (r *receiver) Forward(_ context.Context, q *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail > 0 {
		r.fail--
		return nil, errors.New("not yet")
	}
	e := &events.TaskStart{}
	if err := q.Envelope.Event.UnmarshalTo(e); err != nil {
		return nil, err
	}
	r.got = append(r.got, q.Envelope.Namespace+q.Envelope.Topic+e.ContainerID+q.Envelope.Event.TypeUrl)
	if len(r.got) == r.want {
		close(r.all)
	}
	return &emptypb.Empty{}, nil
}

// TestEventsKeepTheirOrder also where containerd fails at first.
func TestEventsKeepTheirOrder(t *testing.T) {
	const count = 100
	r := &receiver{fail: 2, all: make(chan struct{}), want: count}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(server, r)
	go server.Serve(t.Context(), l)
	defer server.Close()
	p := newPublisher(path, "ns")
	var want []string
	for n := range count {
		p.publish(topicStart, &events.TaskStart{ContainerID: fmt.Sprint(n)})
		want = append(want, "ns"+topicStart+fmt.Sprint(n)+"containerd.events.TaskStart")
	}
	<-r.all
	p.close(t.Context())
	if got := strings.Join(r.got, " "); got != strings.Join(want, " ") {
		t.Errorf("got %s", got)
	}
}

// TestNobodyHearsEvents: a containerd that is gone neither holds nor keeps us.
func TestNobodyHearsEvents(t *testing.T) {
	p := newPublisher(filepath.Join(t.TempDir(), "nobody"), "ns")
	for range 2 * waitingEvents {
		p.publish(topicOOM, &events.TaskOOM{ContainerID: "a"})
	}
	p.close(t.Context())
}

// opened is a pipe's reader, which opens it when it comes to that, as containerd does in the background.
func opened(t *testing.T, path string) <-chan *os.File {
	c := make(chan *os.File, 1)
	go func() {
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
		}
		c <- f
	}()
	return c
}

// TestShortProcess: who reads a process's output has all of it and its end, also where the process
// takes less time than to open the pipe.
func TestShortProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		reader := opened(t, path)
		o, err := openStreams(streams{Stdout: path}, "a", "ns")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(o.files[1], "all")
		o.handedOver()
		o.ended()
		select {
		case out := <-reader:
			if text, err := io.ReadAll(out); err != nil || string(text) != "all" {
				t.Errorf("%q, %v", text, err)
			}
			out.Close()
		case <-time.After(30 * time.Second):
			t.Fatal("a reader waits for ever")
		}
	}
}

// TestStreams: what a process writes is read by who opens the pipe, also who opens it
// anew, and its input ends when it is closed.
func TestStreams(t *testing.T) {
	dir := t.TempDir()
	paths := map[string]string{}
	for _, name := range []string{"in", "out", "err"} {
		paths[name] = filepath.Join(dir, name)
		if err := unix.Mkfifo(paths[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := opened(t, paths["out"])
	opened(t, paths["err"])
	o, err := openStreams(streams{Stdin: paths["in"], Stdout: paths["out"], Stderr: paths["err"]}, "a", "ns")
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{"first", "second"} { // two readers, one after the other
		out := <-first
		first = opened(t, paths["out"])
		fmt.Fprint(o.files[1], said)
		b := make([]byte, len(said))
		if _, err := io.ReadFull(out, b); err != nil || string(b) != said {
			t.Errorf("%q, %v", b, err)
		}
		out.Close()
	}
	in, err := os.OpenFile(paths["in"], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(in, "typed")
	in.Close()
	o.closeInput()
	if text, err := io.ReadAll(o.files[0]); err != nil || string(text) != "typed" {
		t.Errorf("%q, %v", text, err)
	}
	out := <-first
	fmt.Fprint(o.files[1], "last")
	o.handedOver()
	o.ended()
	if text, err := io.ReadAll(out); err != nil || string(text) != "last" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := openStreams(streams{Stdout: filepath.Join(dir, "none")}, "a", "ns"); err == nil || !strings.Contains(err.Error(), "standard output") {
		t.Errorf("%v", err)
	}
	if _, err := openStreams(streams{Stdout: "tcp://host"}, "a", "ns"); err == nil || !strings.Contains(err.Error(), "file:// or binary://") {
		t.Errorf("%v", err)
	}
}

// TestSocketIsTaken tells a shim that is there from one that was.
func TestSocketIsTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	f, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); !errors.Is(err, errTaken) {
		t.Errorf("a shim is there: %v", err)
	}
	f.Close()
	f, err = listen(path)
	if err != nil {
		t.Fatalf("a shim was there: %v", err)
	}
	f.Close()
}

func TestGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	for text, want := range map[string]string{
		`{}`: "a",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`:                                   "pod",
		`{"annotations":{"io.kubernetes.cri-o.SandboxID":"pod"}}`:                                  "pod",
		`{"annotations":{"io.containerd.runc.v2.group":"g","io.kubernetes.cri.sandbox-id":"pod"}}`: "pod",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := groupOf(path, "a"); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}
