// Package bulkhead_test holds the walls of the house: which room may know which,
// and where unsafe may stand. shared design: architecture.md, "The house".
package bulkhead_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "bulkhead"

// A room is a folder with all below it, less the folders that have a row of
// their own. It may import itself, the standard library, golang.org/x/sys, and
// what may lists: rooms by path, modules by a prefix with a dot in its first element.
type room struct {
	path   string
	may    []string
	reason string
}

var rooms = []room{
	{"kvm", nil, "mechanism only"},

	{"jail", nil, "an empty root and no capabilities, for whatever answers a container"},
	{"jail/profile", []string{"github.com/opencontainers/runtime-spec/"}, "a container's seccomp profile, as a program for whichever kernel answers it"},
	{"jail/seccomp", nil, "an allow-list from a table; who is allowed what is its user's business"},

	{"sentry/platform", []string{"sentry/platform/kvm"}, "how application code runs; auto chooses among the platforms"},
	{"sentry/platform/kvm", []string{"kvm", "sentry/platform"}, "the only way from the Sentry to /dev/kvm"},
	{"sentry/checkpoint", nil, "a file with sums; what is in it is its users' business"},
	{"sentry/bpf", nil, "an interpreter; what a filter's answer means is the kernel's business"},
	{"sentry/memory", upTo("sentry/memory"), "pages and address spaces"},
	{"sentry/vfs", upTo("sentry/vfs"), "names and descriptors, above memory for page caches"},
	{"sentry/kernel", upTo("sentry/kernel"), "tasks hold a memory space and a descriptor table"},
	{"sentry/fs", upTo("sentry/fs"), "file systems show the kernel's objects (proc) and are vfs's inodes"},
	{"sentry/fs/gofer", append(upTo("sentry/fs"), "sentry/gofer/wire"), "the client side of the gofer's protocol"},
	{"sentry/net", append(upTo("sentry/net"), "gvisor.dev/gvisor/", "virtio/ratelimit"), "sockets are files; inet stands on the tcpip library"},
	{"sentry/loader", upTo("sentry/loader"), "maps programs that vfs opens"},
	{"sentry/syscalls", append(upTo("sentry/syscalls"), "sentry/fs/gofer"), "the table sees every room that answers"},
	{"sentry/gofer", []string{"sentry/gofer/wire", "jail/seccomp", "jail"}, "another process: it shares the protocol with the Sentry, nothing else"},
	{"sentry/gofer/wire", nil, "the protocol alone, read by both ends"},
	{"sentry/boot", append(upTo("sentry/boot"), "sentry/checkpoint", "virtio/ratelimit", "sentry/platform/kvm", "sentry/fs/gofer", "sentry/gofer/wire", "jail/seccomp", "jail", "jail/profile", "runtime/agent",
		"github.com/opencontainers/runtime-spec/"), "assembles the sandbox and serves the agent protocol"},

	{"runtime/spec", []string{"github.com/opencontainers/runtime-spec/"}, "a configuration as JSON; whoever reads one"},
	{"runtime/agent", []string{"runtime/spec", "github.com/opencontainers/runtime-spec/"}, "the protocol between runtime and sandbox; knows the spec and neither end"},
	{"runtime/agent/rpc", []string{"github.com/containerd/", "google.golang.org/"}, "the agent protocol as a guest's init speaks it; knows neither end"},
	{"runtime/agent/rpc/generate", []string{"github.com/bufbuild/protocompile", "google.golang.org/protobuf/"}, "makes the Go of the protocol's .proto"},
	{"runtime/spelling", nil, "what was meant by a name"},
	{"runtime/install", []string{"runtime/spelling"}, "texts and files of engines; nothing of containers"},
	{"runtime", []string{
		"runtime/agent", "runtime/spec", "runtime/spelling", "runtime/install", "sentry/boot", "sentry/gofer", "sentry/syscalls", "vmm/host", "vmm/sandbox", "vmm/share", "vmm/image",
		"github.com/opencontainers/", "github.com/containerd/", "github.com/spf13/", "github.com/moby/",
		"google.golang.org/", "github.com/BurntSushi/toml", "github.com/godbus/", "github.com/coreos/", "github.com/vishvananda/netlink", "github.com/cilium/ebpf",
	}, "OCI verbs; that only main.go links in the Sentry and the VMM is TestOnlyMainLinksWalls's"},

	{"virtio", []string{"virtio/ratelimit"}, "devices see queues and guest memory, never KVM or a machine"},
	{"virtio/ratelimit", nil, "buckets, for whatever is to be held back"},
	{"virtio/fs", []string{"virtio", "github.com/hanwen/go-fuse/"}, "the FUSE protocol is a library's; the queue is ours"},
	{"virtio/fs/remote", []string{"virtio/fs"}, "the protocol between a share's device and the process with its files"},
	{"vmm", []string{
		"kvm", "virtio", "virtio/fs", "virtio/ratelimit", "guestinit/config", "vmm/share", "vmm/host", "jail/seccomp", "github.com/spf13/", "github.com/BurntSushi/toml", "github.com/klauspost/compress/",
		"github.com/pierrec/lz4/", "github.com/ulikunitz/xz", "github.com/u-root/u-root/pkg/cpio", "github.com/moby/sys/", "github.com/opencontainers/runtime-spec/",
	}, "a machine: KVM beneath, devices beside"},
	{"vmm/host", []string{"kvm", "vmm"}, "whether this host runs a Linux guest"},
	{"vmm/sandbox", []string{
		"vmm", "vmm/share", "kvm", "virtio", "virtio/fs", "virtio/fs/remote", "virtio/ratelimit", "guestinit/config", "runtime/agent", "runtime/agent/rpc", "runtime/spec", "jail", "jail/seccomp", "jail/profile",
		"github.com/containerd/ttrpc", "github.com/opencontainers/runtime-spec/",
	}, "a container's machine, as the runtime starts it; the agent protocol's client"},
	{"vmm/image", []string{"runtime/agent", "jail"}, "another process: a disk of a directory"},
	{"vmm/share", []string{"virtio/fs", "virtio/fs/remote", "runtime/agent", "jail", "jail/seccomp"}, "another process: a container's files, without a machine"},
	{"vmm/e2e/guest", []string{"vmm/e2e/exchange", "github.com/mdlayher/vsock"}, "a program of the tests that runs in their guests"},
	{"vmm/e2e/exchange", nil, "what both ends of a connection do in tests"},
	{"guestinit", []string{"guestinit/config", "jail", "runtime/agent/rpc", "runtime/spec", "github.com/containerd/ttrpc", "github.com/opencontainers/runtime-spec/",
		"github.com/vishvananda/netlink", "github.com/mdlayher/vsock", "github.com/u-root/", "github.com/moby/sys/", "mvdan.cc/sh/",
	}, "PID 1 of a guest: knows its configuration and nothing of the host"},
	{"guestinit/config", nil, "what a host tells its guest, read by both ends"},
	{"kernels", []string{"github.com/u-root/u-root/pkg/cpio", "github.com/klauspost/compress/", "github.com/ulikunitz/xz", "github.com/pierrec/lz4/", "vmm/boot"}, "how a guest kernel is made"},
	{"hwtest", []string{"kvm", "vmm", "kernels", "sentry/platform", "sentry/platform/kvm", "github.com/spf13/", "github.com/u-root/u-root/pkg/cpio", "github.com/klauspost/compress/"},
		"what a machine can do, proven by doing; and the lab"},

	{"deploy", []string{"github.com/spf13/"}, "Kubernetes and packages: it sees the product as a person does"},
	{"deploy/dist", []string{"runtime", "vmm", "hwtest", "github.com/spf13/"}, "manual pages and completions are made of the commands"},

	{"test", []string{"runtime/agent", "github.com/opencontainers/"}, "programs beside the product: they see it as a person does"},
}

// order is architecture.md's list of the Sentry's rooms: each may know those before it.
var order = []string{
	"sentry/bpf", "sentry/platform", "sentry/memory", "sentry/vfs", "sentry/kernel", "sentry/fs",
	"sentry/net", "sentry/loader", "sentry/syscalls", "sentry/boot",
}

func upTo(room string) []string { return slices.Clone(order[:slices.Index(order, room)]) }

func TestRooms(t *testing.T) {
	for file, imports := range sources(t) {
		// A test may wire a room to a higher one that uses it; the product may not.
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		home, ok := roomOf(file)
		if !ok {
			t.Errorf("%s stands in no room of the table", file)
			continue
		}
		for _, imported := range imports {
			if !home.mayImport(imported) {
				t.Errorf("%s: %s may not import %s (%s)", file, home.path, imported, home.reason)
			}
		}
	}
}

// TestOnlyMainLinksWalls keeps the verbs free of the Sentry and the VMM: main.go alone
// dispatches to the processes that are this program executed again; the shim's asks
// whether this host runs machines.
// The syscall table, which `bulkhead syscalls` prints, is data and comes with it.
func TestOnlyMainLinksWalls(t *testing.T) {
	for file, imports := range sources(t) {
		if !within(file, "runtime") || file == "runtime/main.go" || file == "runtime/containerd-shim-bulkhead-v1/main.go" || strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, imported := range imports {
			if within(imported, module+"/sentry") || within(imported, module+"/kvm") || within(imported, module+"/vmm") {
				t.Errorf("%s imports %s; only the main.go of bulkhead and of its shim may", file, imported)
			}
		}
	}
}

// TestUnsafe keeps what Go cannot check in files whose name says so, one a package.
func TestUnsafe(t *testing.T) {
	seen := map[string]string{}
	for file, imports := range sources(t) {
		if strings.HasSuffix(file, ".pb.go") {
			continue // protoc-gen-go's, which makes a []byte of a string so
		}
		marked := strings.HasSuffix(strings.TrimSuffix(file, "_test.go"), "_unsafe") || strings.HasSuffix(file, "_unsafe.go")
		for _, imported := range imports {
			if imported == "C" {
				t.Errorf("%s imports C: bulkhead is built without cgo", file)
			}
			if imported == "unsafe" && !marked {
				t.Errorf("%s imports unsafe; only a file named …_unsafe.go may", file)
			}
		}
		if !marked || strings.HasSuffix(file, "_test.go") {
			continue
		}
		if other, twice := seen[path.Dir(file)]; twice {
			t.Errorf("%s and %s: one …_unsafe.go a package", other, file)
		}
		seen[path.Dir(file)] = file
	}
}

// TestNames refuses the names that say nothing (style.md, "Names").
func TestNames(t *testing.T) {
	for file := range sources(t) {
		for dir := range strings.SplitSeq(path.Dir(file), "/") {
			if slices.Contains([]string{"util", "utils", "common", "types", "helpers"}, dir) {
				t.Errorf("%s: a package named %s says nothing", file, dir)
			}
		}
	}
}

// roomOf is the row with the longest path that holds name.
func roomOf(name string) (room, bool) {
	var found room
	for _, row := range rooms {
		if within(name, row.path) && len(row.path) > len(found.path) {
			found = row
		}
	}
	return found, found.path != ""
}

func within(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

func (r room) mayImport(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	if local, ours := strings.CutPrefix(imported, module+"/"); ours {
		// The nearest row decides: sentry/platform in a list does not open sentry/platform/kvm.
		target, ok := roomOf(local)
		return ok && (target.path == r.path || slices.Contains(r.may, target.path))
	}
	if !strings.Contains(first, ".") || within(imported, "golang.org/x/sys") {
		return true
	}
	return slices.ContainsFunc(r.may, func(m string) bool { return strings.HasPrefix(imported, m) })
}

// sources maps each Go file of the module to its imports.
func sources(t *testing.T) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if skip := []string{".git", "testdata", "out", "bin"}; slices.Contains(skip, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || !strings.Contains(name, "/") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		imports := map[string]bool{}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports[imported] = true
		}
		files[filepath.ToSlash(name)] = slices.Sorted(maps.Keys(imports))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
