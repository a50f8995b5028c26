// Package agent is the protocol between the runtime and the sandbox process of
// one container, or of a pod's: what the runtime hands over when it starts
// the process, the line with which the process reports for duty, and the calls
// that it answers from then on. The runtime is the client. The sandbox side
// implements Handler and calls Serve; the Sentry does so in sentry/boot, over a
// Unix socket.
//
// The client does not trust the server: a container that has broken out of its
// kernel speaks with the Sentry's mouth. Frames are bounded, answers are parsed
// into types once, and a client never accepts a descriptor.
//
// The package knows the OCI specification and nothing of either side.
package agent

import (
	"context"
	"os"
	"time"

	"bulkhead/runtime/spec"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Version is the version of the protocol. Both sides are the same program
// today, so it guards against an upgrade under a running container: the client
// refuses a server whose number differs.
const Version = 1

// Tracing is a Handler that can tell of system calls as they are made. Trace writes
// TraceEvents to to, each as a line of JSON, until ctx ends or to is closed.
type Tracing interface {
	Trace(ctx context.Context, r *TraceRequest, to *os.File) error
}

// Podding is a Handler whose sandbox takes further containers, a pod's. Each is called
// by its name in all calls; the first's end is the end of all.
type Podding interface {
	// Add makes a container, up to just before its program's first instruction.
	// The files are its standard streams as Exec has them, and the handler's. To the
	// Sentry come besides those that it preserves, and last the socket to its gofer; to a
	// machine its disks, in their order.
	Add(ctx context.Context, r *AddRequest, files []*os.File) error

	// Remove ends what still runs of a container that Add made, and forgets it.
	Remove(ctx context.Context, container string) error
}

// AddRequest is a further container. Its files are with a gofer of its own, or with the
// machine's share under the container's name (AttachRequest).
type AddRequest struct {
	Container    string     `json:"container"`
	Spec         *spec.Spec `json:"spec"` // as BootConfig's
	GoferMounts  []int      `json:"goferMounts,omitempty"`
	Overlay      Overlay    `json:"overlay"`
	Limits       Limits     `json:"limits"`
	Cgroup       Cgroup     `json:"cgroup,omitempty"`
	Console      *Console   `json:"console,omitempty"`
	OrdinaryInit bool       `json:"ordinaryInit,omitempty"`
	Disks        []Disk     `json:"disks,omitempty"` // of a machine's container; FD means nothing

	// Share are the namespaces of the sandbox's first container that it is in, of
	// ipc, uts and pid; the network is always that one's.
	Share []string `json:"share,omitempty"`

	// PIDsOf is another of the pod's containers, whose pid namespace this one is in; "": as
	// Share says. A machine's have none such (ENOSYS).
	PIDsOf string `json:"pidsOf,omitempty"`
}

// Shrinking is a Handler whose sandbox gives memory back to the host in its own time, after
// an Update to less.
type Shrinking interface {
	// GivenBack answers when all is given back that is to be, or when patience is over, with
	// how much that is of what the sandbox was made with, in bytes.
	GivenBack(ctx context.Context, patience time.Duration) (uint64, error)
}

// TraceRequest says which calls are wanted; the zero value stands for all.
type TraceRequest struct {
	Container string   `json:"container,omitempty"`
	Calls     []string `json:"calls,omitempty"` // by name
	PIDs      []int    `json:"pids,omitempty"`  // processes
	Path      string   `json:"path,omitempty"`  // part of a file name among the arguments
	Failed    bool     `json:"failed,omitempty"`
}

// TraceEvent is one call that has ended, or that does not return.
type TraceEvent struct {
	Time    int64    `json:"time"` // nanoseconds since 1970
	PID     int      `json:"pid"`
	TID     int      `json:"tid"`
	Command string   `json:"comm"`
	Call    string   `json:"call"`
	Args    []string `json:"args"`
	Result  *int64   `json:"result,omitempty"` // absent: the call does not return
	Errno   string   `json:"errno,omitempty"`
	Took    int64    `json:"took,omitempty"` // nanoseconds
	Lost    uint64   `json:"lost,omitempty"` // calls that were too many to be told of before this one
}

// Guarded is a Handler that has a last word on a panic in one of its calls:
// Guard is deferred around each and recovers.
type Guarded interface{ Guard() }

// Conditioned is a Handler that tells what has been done to a container: who did it may
// have been killed before it could write that down.
type Conditioned interface {
	Condition(ctx context.Context, container string) (*Condition, error)
}

// Condition is what Start, Pause and Resume have brought a container to.
type Condition struct {
	Begun  bool `json:"begun"`
	Paused bool `json:"paused"` // of a machine
}

// Handler answers the runtime's calls. Calls run concurrently, each on a
// goroutine of its own. Their context ends when the caller hangs up, which only
// Wait and Stats need to look at. Where Linux has an errno for a refusal, return
// it (bare or wrapped): it reaches the client's errors.Is.
//
// An empty container name means the sandbox's first container. A pid is the number that the container itself sees; 0 is its init.
type Handler interface {
	// Start lets the init process run, which was loaded, and stopped before its
	// first instruction, when the sandbox became ready. A second Start is EALREADY.
	Start(ctx context.Context, container string) error

	// Exec starts a further process and gives its pid. Descriptors 0 to
	// len(files)-1 of the process are backed by files, or, with a terminal, 0 to 2
	// are a terminal inside whose other end is files[0], the slave of a host pty
	// as with BootConfig.Terminal, and files[1:] are 3 and up. The handler owns
	// the files, whatever it answers. The process's exit status is kept until one
	// Wait has taken it.
	//
	// A program that cannot be found or run is an error here, in the words of the
	// shells, which docker parses: `exec: "foo": executable file not found in $PATH`,
	// `exec: "/foo": no such file or directory`, `exec: "/foo": permission denied`.
	Exec(ctx context.Context, r *ExecRequest, files []*os.File) (pid int, err error)

	// Signal sends a signal. It is ESRCH when there is no such process, or no
	// process at all any more.
	Signal(ctx context.Context, r *SignalRequest) error

	// Wait blocks until the process has exited and says how.
	Wait(ctx context.Context, r *WaitRequest) (ExitStatus, error)

	// Resize sets the size of the terminal that the process pid was given by Exec,
	// or for pid 0 by the boot config.
	Resize(ctx context.Context, r *ResizeRequest) error

	Processes(ctx context.Context, container string) ([]Process, error)
	Stats(ctx context.Context, container string) (*Stats, error)

	// Update changes limits while the container runs; see Limits.
	Update(ctx context.Context, r *UpdateRequest) error

	// Pause and Resume stop and continue all application threads of a container's. Where one
	// is alone in the Sentry the runtime does not ask, and freezes the sandbox's cgroup.
	Pause(ctx context.Context, container string) error
	Resume(ctx context.Context, container string) error

	// Debug gives what helps to understand a sandbox from outside: versions, the
	// platform, and for what == "stacks" all goroutines.
	Debug(ctx context.Context, what string) (string, error)
}

// ExecRequest is a process to start.
type ExecRequest struct {
	Container string         `json:"container,omitempty"`
	Process   *specs.Process `json:"process"` // validated; Terminal says whether there is one
}

// SignalRequest names a signal and who gets it.
type SignalRequest struct {
	Container string `json:"container,omitempty"`
	PID       int    `json:"pid,omitempty"` // 0 is init
	Signal    int    `json:"signal"`        // Linux's number; real-time signals too
	All       bool   `json:"all,omitempty"` // every process of the container; PID is ignored
}

// WaitRequest names a process to wait for.
type WaitRequest struct {
	Container string `json:"container,omitempty"`
	PID       int    `json:"pid,omitempty"` // 0 is init

	// Kill ends the process if the caller hangs up before it has exited: the
	// caller stands for it on the host, and was killed in its stead. Serve does
	// that; a Handler has nothing to do with it.
	Kill bool `json:"kill,omitempty"`
}

// ExitStatus says how a process ended: by exit(Code), or by Signal if that is not 0.
type ExitStatus struct {
	Code   int  `json:"code,omitempty"`
	Signal int  `json:"signal,omitempty"`
	Core   bool `json:"core,omitempty"` // as WCOREDUMP
}

// Exit is the status as one number, as a shell gives it.
func (s ExitStatus) Exit() int {
	if s.Signal != 0 {
		return 128 + s.Signal
	}
	return s.Code & 0xff
}

// ResizeRequest is a new size for a terminal.
type ResizeRequest struct {
	Container string `json:"container,omitempty"`
	PID       int    `json:"pid,omitempty"`
	Rows      uint16 `json:"rows"`
	Columns   uint16 `json:"columns"`
}

// UpdateRequest is the complete new set of limits.
type UpdateRequest struct {
	Container string `json:"container,omitempty"`
	Limits    Limits `json:"limits"`
	Cgroup    Cgroup `json:"cgroup,omitempty"` // what it does not have stays as it is
}

// Process is one row of ps.
type Process struct {
	PID     int      `json:"pid"`
	Parent  int      `json:"ppid"`
	UID     uint32   `json:"uid"`
	GID     uint32   `json:"gid"`
	Threads int      `json:"threads"`
	TTY     string   `json:"tty,omitempty"`     // pts/0
	Start   int64    `json:"start,omitempty"`   // seconds since 1970
	CPU     int64    `json:"cpu,omitempty"`     // nanoseconds, user and system
	State   string   `json:"state,omitempty"`   // R, S, D, T, Z as in /proc/PID/stat
	Memory  uint64   `json:"memory,omitempty"`  // resident bytes
	Command []string `json:"command,omitempty"` // argv
	Exe     string   `json:"exe,omitempty"`
}

// Stats is what a container uses, as seen inside. The runtime adds the host's
// view from the cgroup.
type Stats struct {
	Processes uint64 `json:"processes"` // tasks, as pids.current counts
	PidsLimit uint64 `json:"pidsLimit,omitempty"`

	Memory      uint64 `json:"memory"` // bytes in use by applications, tmpfs and page cache
	Cache       uint64 `json:"cache,omitempty"`
	MemoryMax   uint64 `json:"memoryMax,omitempty"` // the highest Memory so far
	MemoryLimit uint64 `json:"memoryLimit,omitempty"`
	OOMKills    uint64 `json:"oomKills,omitempty"`

	CPUUser   int64 `json:"cpuUser,omitempty"` // nanoseconds
	CPUSystem int64 `json:"cpuSystem,omitempty"`

	Calls  uint64 `json:"calls,omitempty"`  // system calls served
	Faults uint64 `json:"faults,omitempty"` // page faults answered

	// Interfaces are BootConfig.Devices, in their order, which are the sandbox's: its first
	// container's alone. They have no names here, for the container may change those.
	Interfaces []Traffic `json:"interfaces,omitempty"`
}

// Traffic is what an interface has carried, seen from inside, with the headers of its link.
type Traffic struct {
	RxPackets uint64 `json:"rxPackets"`
	RxBytes   uint64 `json:"rxBytes"`
	RxDropped uint64 `json:"rxDropped,omitempty"`
	TxPackets uint64 `json:"txPackets"`
	TxBytes   uint64 `json:"txBytes"`
	TxDropped uint64 `json:"txDropped,omitempty"`
}

// Limits are enforced by the sandbox upon what runs inside it. The host's cgroup
// of the sandbox process has the same limits with slack for the Sentry's own
// needs (runtime, cgroup.go), as the second line. 0 is no limit.
type Limits struct {
	Memory int64   `json:"memory,omitempty"` // bytes: applications, tmpfs, page cache
	Pids   int64   `json:"pids,omitempty"`   // tasks; clone(2) is EAGAIN beyond
	CPUs   float64 `json:"cpus,omitempty"`   // enforced by the host; inside, the number that nproc rounds up to
	CPUSet int     `json:"cpuSet,omitempty"` // how many CPUs the host lets it run on; nproc's most
}

// Cgroup is what a container's control group in a machine is set to beyond Limits: files of
// version 2 by name. The CPUs of its cpuset.cpus are the host's.
type Cgroup map[string]string

// Info is the answer to the handshake.
type Info struct {
	Version int    `json:"version"`
	Program string `json:"program,omitempty"`
}
