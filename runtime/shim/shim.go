// Package shim is containerd-shim-bulkhead-v1, the process between containerd and a pod's
// containers (containerd, core/runtime/v2/README.md): runtime type io.containerd.bulkhead.v1.
// containerd starts it once a pod, or once a container that is in none, asks it over
// ttrpc, and hears of what happens as events. It calls runtime/container as the verbs of
// bulkhead do, without starting a program a call.
//
// The containers are its children: it outlives a restart of containerd, which connects
// again, and should it be killed, "delete" takes away what it leaves.
package shim

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"bulkhead/runtime/container"
	"bulkhead/runtime/features"
	"bulkhead/runtime/program"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Name is the program's as containerd makes it of the runtime's type.
const Name = "containerd-shim-bulkhead-v1"

// RuntimeType is the type that containerd makes it of.
const RuntimeType = "io.containerd.bulkhead.v1"

// Program is what the runtime's main hands over.
type Program struct {
	Version string
	Machine func() error // container.Runtime's
}

// flags are what containerd gives every call (core/runtime/v2/README.md, "Flags").
type flags struct {
	namespace, address, publish, id, bundle, socket string
	debug, version, info                            bool
}

// Main runs the program and gives its exit code.
func (p Program) Main(args []string) int {
	var f flags
	set := flag.NewFlagSet(Name, flag.ContinueOnError)
	set.StringVar(&f.namespace, "namespace", "", "containerd's namespace that the container is in")
	set.StringVar(&f.id, "id", "", "the container's name")
	set.StringVar(&f.bundle, "bundle", "", "the container's bundle, for delete (default: the working directory)")
	set.StringVar(&f.address, "address", "", "containerd's own socket")
	set.StringVar(&f.publish, "publish-binary", "", "ignored: events go to the socket that TTRPC_ADDRESS names")
	set.StringVar(&f.socket, "socket", "", "ignored: the socket comes as descriptor 3")
	set.BoolVar(&f.debug, "debug", false, "log more")
	set.BoolVar(&f.version, "v", false, "print the version and end")
	set.BoolVar(&f.info, "info", false, "print what containerd 2 wants to know of a runtime, and end")
	set.Usage = func() {
		fmt.Fprintf(set.Output(), `%s is started by containerd, for containers of the runtime type
io.containerd.bulkhead.v1; people use bulkhead. It is found on containerd's PATH.
In /etc/containerd/config.toml (version 2):
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.bulkhead]
    runtime_type = "io.containerd.bulkhead.v1"
    pod_annotations = ["dev.bulkhead.*"]
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.bulkhead.options]
    ConfigPath = "/etc/bulkhead/config.toml"

Flags:
`, Name)
		set.PrintDefaults()
	}
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if f.version {
		fmt.Printf("%s:\n  Version:  %s\n", Name, p.Version)
		return 0
	}
	run := p.run
	if f.info {
		run = p.describe
	}
	if err := run(&f, set.Arg(0)); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
		return 1
	}
	return 0
}

// featuresType is what containerd calls them (core/runtime/v2, init: a typeurl of the
// specification's major version); the value is JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// describe prints what runtimeInfo gives.
func (p Program) describe(*flags, string) error {
	out, err := p.runtimeInfo()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
}

// runtimeInfo is a RuntimeInfo (containerd/api/types/introspection.proto) as protobuf has it.
func (p Program) runtimeInfo() ([]byte, error) {
	honoured, err := json.Marshal(features.Of())
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&types.RuntimeInfo{
		Name: RuntimeType, Version: &types.RuntimeVersion{Version: p.Version, Revision: program.Commit},
		Features: &anypb.Any{TypeUrl: featuresType, Value: honoured},
	})
}

func (p Program) run(f *flags, action string) error {
	if f.namespace == "" {
		return errors.New("-namespace is missing; this program is started by containerd (-h)")
	}
	if f.id == "" {
		return errors.New("-id is missing")
	}
	switch action {
	case "start":
		return p.start(f)
	case "delete":
		return p.delete(f)
	case "":
		return p.serve(f)
	}
	return fmt.Errorf("%q is none of start, delete", action)
}

// delete takes away what a container has left whose shim is gone, and prints how it ended.
func (p Program) delete(f *flags) error {
	dir := f.bundle
	if dir == "" {
		var err error
		if dir, err = os.Getwd(); err != nil {
			return err
		}
	}
	rt := p.runtime(f.namespace, os.Stderr, f.debug)
	left, err := readRecord(dir)
	if err == nil {
		rt.Root, rt.SystemdCgroup = left.Root, left.SystemdCgroup
	} else if !errors.Is(err, os.ErrNotExist) {
		return err // where its state is is not known, and to say that it is gone would be wrong
	}
	answer := &task.DeleteResponse{ExitStatus: killed, ExitedAt: timestamppb.Now()}
	if c, err := rt.Open(f.id); err == nil {
		answer.Pid = uint32(c.State.Sandbox.PID)
	}
	if err := rt.Delete(context.Background(), f.id, true); err != nil {
		return fmt.Errorf("container %s: %w", f.id, err)
	}
	if err := unmountRoot(filepath.Join(dir, "rootfs")); err != nil {
		return err
	}
	out, err := proto.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
}

// runtime is that of a namespace, before settings.
func (p Program) runtime(namespace string, log io.Writer, debug bool) *container.Runtime {
	return &container.Runtime{
		Root: filepath.Join("/run/bulkhead/containerd", namespace), Machine: p.Machine,
		Log: newLog(log, debug), LogFormat: "text", Debug: debug, Began: time.Now(),
	}
}

// record is kept in a container's bundle for who cleans up after us.
type record struct {
	Root          string `json:"root"`
	SystemdCgroup bool   `json:"systemdCgroup,omitempty"`
}

const recordFile = "bulkhead.json"

func (r *record) write(bundle string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(bundle, recordFile), data)
}

func readRecord(bundle string) (*record, error) {
	path := filepath.Join(bundle, recordFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// writeFile writes all of a file or nothing.
func writeFile(path string, data []byte) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
