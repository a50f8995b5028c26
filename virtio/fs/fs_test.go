package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"bulkhead/virtio"
	"bulkhead/virtio/virtiotest"
)

const ringFeatures = virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

func TestNew(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	for _, test := range []struct {
		name string
		o    Options
		want string // part of the error
	}{
		{"no directory", Options{Dir: dir + "/none", Tag: "a"}, "/none: no such file or directory"},
		{"a file", Options{Dir: dir + "/file", Tag: "a"}, "/file: not a directory"},
		{"no tag", Options{Dir: dir}, "a tag has 1 to 36"},
		{"a long tag", Options{Dir: dir, Tag: strings.Repeat("x", 37)}, "a tag has 1 to 36"},
		{"queues", Options{Dir: dir, Tag: "a", Queues: 65}, "1 to 64"},
		{"descriptors", Options{Dir: dir, Tag: "a", Descriptors: 3}, "ulimit -n"},
	} {
		before := openFiles(t)
		if _, err := New(test.o); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want one line with %q", test.name, err, test.want)
		}
		if after := openFiles(t); after != before {
			t.Errorf("%s: %d descriptors are left open", test.name, after-before)
		}
	}
}

func TestConfig(t *testing.T) {
	d := newDevice(t, Options{Queues: 3})
	got := make([]byte, 48)
	d.ReadConfig(0, got)
	want := append(append([]byte("test"), make([]byte, 32)...), 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	if !bytes.Equal(got, want) {
		t.Errorf("config % x", got)
	}
	d.ReadConfig(35, got[:3])
	if !bytes.Equal(got[:3], []byte{0, 3, 0}) {
		t.Errorf("config at 35 % x", got[:3])
	}
	d.ReadConfig(1<<31, got)
	if len(d.Queues()) != 4 {
		t.Errorf("queues %v", d.Queues())
	}
}

// TestRuleSizes holds the sizes of rules against go-fuse's structures.
func TestRuleSizes(t *testing.T) {
	for op, in := range map[opcode]any{
		opForget: fuse.ForgetIn{}, opGetattr: fuse.GetAttrIn{}, opSetattr: fuse.SetAttrIn{}, opMknod: fuse.MknodIn{},
		opMkdir: fuse.MkdirIn{}, opLink: fuse.LinkIn{}, opOpen: fuse.OpenIn{}, opRead: fuse.ReadIn{}, opWrite: fuse.WriteIn{},
		opRelease: fuse.ReleaseIn{}, opFsync: fuse.FsyncIn{}, opGetxattr: fuse.GetXAttrIn{}, opListxattr: fuse.GetXAttrIn{},
		opFlush: fuse.FlushIn{}, opOpendir: fuse.OpenIn{}, opReaddir: fuse.ReadIn{}, opReaddirplus: fuse.ReadIn{},
		opReleasedir: fuse.ReleaseIn{}, opFsyncdir: fuse.FsyncIn{}, opGetlk: fuse.LkIn{}, opAccess: fuse.AccessIn{},
		opCreate: fuse.CreateIn{}, opTmpfile: fuse.CreateIn{}, opInterrupt: fuse.InterruptIn{}, opIoctl: fuse.IoctlIn{},
		opFallocate: fuse.FallocateIn{}, opRename2: fuse.RenameIn{}, opLseek: fuse.LseekIn{}, opCopyFileRange: fuse.CopyFileRangeIn{},
		opLookup: fuse.InHeader{}, opUnlink: fuse.InHeader{}, opStatfs: fuse.InHeader{}, opSymlink: fuse.InHeader{},
	} {
		if want := binary.Size(in); rules[op].fixed != want {
			t.Errorf("%v: %d bytes, in go-fuse %d", op, rules[op].fixed, want)
		}
	}
}

func TestInit(t *testing.T) {
	c := direct(t, newDevice(t, Options{}))
	out := c.begin()
	if out.Major != 7 || out.MaxWrite != maxIO || out.MaxPages != 256 {
		t.Errorf("%+v", out)
	}
	flags := uint64(out.Flags) | uint64(out.Flags2)<<32
	for _, flag := range []struct {
		bit  uint64
		name string
		want bool
	}{
		{fuse.CAP_AUTO_INVAL_DATA, "AUTO_INVAL_DATA", true},
		{fuse.CAP_ATOMIC_O_TRUNC, "ATOMIC_O_TRUNC", true},
		{fuse.CAP_HANDLE_KILLPRIV_V2, "HANDLE_KILLPRIV_V2", true},
		{fuse.CAP_READDIRPLUS, "DO_READDIRPLUS", true},
		{fuse.CAP_POSIX_LOCKS, "POSIX_LOCKS", false},
		{fuse.CAP_FLOCK_LOCKS, "FLOCK_LOCKS", false},
		{fuse.CAP_WRITEBACK_CACHE, "WRITEBACK_CACHE", false},
		{fuse.CAP_PASSTHROUGH, "PASSTHROUGH", false},
		{fuse.CAP_POSIX_ACL, "POSIX_ACL", false},
		{fuse.CAP_MAP_ALIGNMENT, "MAP_ALIGNMENT", false},
	} {
		if got := flags&flag.bit != 0; got != flag.want {
			t.Errorf("%s is %v", flag.name, got)
		}
	}
	for _, version := range [][2]uint32{{8, 0}, {7, 30}, {6, 99}} {
		if _, err := c.call(opInit, 0, 64, version[0], version[1], uint32(0), uint32(0)); err != unix.EPROTO {
			t.Errorf("version %v: %v", version, err)
		}
	}
}

// TestModel runs random operations on a small tree through the queues, each
// compared with a model in memory, and the host's directory at the end.
func TestModel(t *testing.T) {
	host := t.TempDir()
	c, _ := driven(t, newDevice(t, Options{Dir: host, Descriptors: 128}), ringFeatures)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	runModel(t, c, host, rand.New(rand.NewPCG(seed, 1)), 4000)
}

// modelFile is a file by content; a hard link is the same one twice.
type modelFile struct {
	node    uint64
	lookups uint64
	data    []byte
}

type modelOpen struct {
	*modelFile
	handle uint64
}

func runModel(t *testing.T, c *client, host string, r *rand.Rand, steps int) {
	var dirs []uint64
	var dirNames []string
	for _, name := range []string{"x", "y", "z"} {
		e, err := c.mkdir(root, name)
		must(t, err)
		dirs, dirNames = append(dirs, e.NodeId), append(dirNames, name)
	}
	type slot struct{ dir, name int }
	names := map[slot]*modelFile{}
	var open []modelOpen
	all := map[*modelFile]bool{}
	forget := func() { // what has no name and is not open, as Linux does
		for f := range all {
			named := slices.Contains(slices.Collect(maps.Values(names)), f)
			if !named && !slices.ContainsFunc(open, func(o modelOpen) bool { return o.modelFile == f }) {
				c.forget(f.node, f.lookups)
				delete(all, f)
			}
		}
	}
	at := func() slot { return slot{r.IntN(len(dirs)), r.IntN(6)} }
	name := func(s slot) string { return fmt.Sprintf("f%d", s.name) }
	wantErr := func(step int, what string, got, want error) {
		t.Helper()
		if got != want {
			t.Fatalf("step %d: %s: %v; want %v", step, what, got, want)
		}
	}
	exists := func(s slot, missing error) error {
		if names[s] == nil {
			return missing
		}
		return nil
	}
	for step := range steps {
		s, d := at(), at()
		forget()
		switch r.IntN(12) {
		case 0, 1:
			node, handle, err := c.create(dirs[s.dir], name(s), unix.O_RDWR|unix.O_EXCL)
			if names[s] != nil {
				wantErr(step, "create", err, unix.EEXIST)
				continue
			}
			wantErr(step, "create", err, nil)
			f := &modelFile{node: node, lookups: 1}
			all[f] = true
			names[s], open = f, append(open, modelOpen{f, handle})
		case 2:
			wantErr(step, "unlink", c.unlink(dirs[s.dir], name(s)), exists(s, unix.ENOENT))
			delete(names, s)
		case 3:
			err := c.rename(dirs[s.dir], name(s), dirs[d.dir], name(d), 0)
			wantErr(step, "rename", err, exists(s, unix.ENOENT))
			if f := names[s]; f != nil && f != names[d] { // two links of one file stay
				names[d] = f
				delete(names, s)
			}
		case 4:
			err := c.rename(dirs[s.dir], name(s), dirs[d.dir], name(d), unix.RENAME_EXCHANGE)
			if names[s] == nil || names[d] == nil {
				wantErr(step, "exchange", err, unix.ENOENT)
				continue
			}
			wantErr(step, "exchange", err, nil)
			names[s], names[d] = names[d], names[s]
		case 5:
			f := names[s]
			if f == nil {
				continue
			}
			e, err := c.link(f.node, dirs[d.dir], name(d))
			if names[d] != nil {
				wantErr(step, "link", err, unix.EEXIST)
				continue
			}
			wantErr(step, "link", err, nil)
			if e.NodeId != f.node {
				t.Fatalf("step %d: a hard link is inode %d, was %d", step, e.NodeId, f.node)
			}
			names[d] = f
			f.lookups++
		case 6:
			e, err := c.lookup(dirs[s.dir], name(s))
			wantErr(step, "lookup", err, exists(s, unix.ENOENT))
			if f := names[s]; f != nil && (e.NodeId != f.node || e.Size != uint64(len(f.data))) {
				t.Fatalf("step %d: lookup: inode %d of %d bytes; want %d of %d", step, e.NodeId, e.Size, f.node, len(f.data))
			} else if f != nil {
				f.lookups++
			}
		default:
			if len(open) == 0 {
				continue
			}
			i := r.IntN(len(open))
			if !modelIO(t, c, r, open[i]) {
				t.Fatalf("step %d", step)
			}
			if r.IntN(3) == 0 || len(open) > 20 {
				must(t, c.release(open[i].handle))
				open = slices.Delete(open, i, i+1)
			}
		}
	}
	for s, f := range names {
		got, err := os.ReadFile(filepath.Join(host, dirNames[s.dir], name(s)))
		if err != nil || !bytes.Equal(got, f.data) {
			t.Errorf("%s/%s on the host: %d bytes, %v; want %d", dirNames[s.dir], name(s), len(got), err, len(f.data))
		}
	}
	for i, dir := range dirs {
		listed, _, err := c.list(dir, opReaddirplus, 1024)
		must(t, err)
		n := 0
		for s := range names {
			if s.dir == i {
				n++
			}
		}
		if len(listed) != n+2 {
			t.Errorf("%s holds %v; want %d and two dots", dirNames[i], listed, n)
		}
	}
}

// modelIO does one thing to an open file and its model.
func modelIO(t *testing.T, c *client, r *rand.Rand, f modelOpen) bool {
	t.Helper()
	const most = 200 << 10
	at, size := r.IntN(most), r.IntN(40<<10)
	switch r.IntN(5) {
	case 0, 1:
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		n, err := c.write(f.node, f.handle, uint64(at), data)
		if n != size || err != nil {
			t.Errorf("write: %d, %v", n, err)
			return false
		}
		if need := at + size; size > 0 && need > len(f.data) {
			f.data = append(f.data, make([]byte, need-len(f.data))...)
		}
		copy(f.data[min(at, len(f.data)):], data)
	case 2:
		if err := c.truncate(f.node, uint64(at)); err != nil {
			t.Errorf("truncate: %v", err)
			return false
		}
		if at <= len(f.data) {
			f.data = f.data[:at:at]
		} else {
			f.data = append(f.data, make([]byte, at-len(f.data))...)
		}
	case 3:
		const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		_, err := c.call(opFallocate, f.node, 0, f.handle, uint64(at), uint64(size+1), uint32(punch), uint32(0))
		if err != nil {
			t.Errorf("punch: %v", err)
			return false
		}
		if at < len(f.data) {
			clear(f.data[at:min(at+size+1, len(f.data))])
		}
	case 4:
		got, err := c.read(f.node, f.handle, uint64(at), size)
		var want []byte
		if at < len(f.data) {
			want = f.data[at:min(at+size, len(f.data))]
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d at %d: %d bytes, %v; want %d", size, at, len(got), err, len(want))
			return false
		}
	}
	return true
}

// TestSplit answers requests and replies that are cut into pieces of any size.
func TestSplit(t *testing.T) {
	d := newDevice(t, Options{})
	c, driver := driven(t, d, ringFeatures)
	node, handle, err := c.create(root, "f", unix.O_RDWR)
	must(t, err)
	data := make([]byte, maxIO)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	for _, piece := range []int{1 << 20, 4096, 3333, 1100} {
		body := words(handle, uint64(0), uint32(len(data)), uint32(0), uint64(0), uint32(0), uint32(0), data)
		request := append(c.header(opWrite, node, len(body)), body...)
		reply := driver.Send(1, pieces(request, piece), []int{3, 5, 16}).Wait()
		if _, err := c.check(request[:headerSize], reply); err != nil {
			t.Errorf("write in pieces of %d: %v", piece, err)
		}
		body = words(handle, uint64(0), uint32(len(data)), uint32(0), uint64(0), uint32(0), uint32(0))
		request = append(c.header(opRead, node, len(body)), body...)
		var in []int
		for _, p := range pieces(make([]byte, replySize+len(data)), piece) {
			in = append(in, len(p))
		}
		reply = driver.Send(1, pieces(request, 11), in).Wait()
		if got, err := c.check(request[:headerSize], reply); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read in pieces of %d: %d bytes, %v", piece, len(got), err)
		}
	}
}

func pieces(b []byte, n int) [][]byte { return slices.Collect(slices.Chunk(b, n)) }

// TestParallel has one request wait, and others pass it.
func TestParallel(t *testing.T) {
	d := newDevice(t, Options{Queues: 2, Workers: 2})
	c, driver := driven(t, d, ringFeatures)
	node, handle, err := c.create(root, "f", unix.O_RDWR)
	must(t, err)
	waiting, goOn := make(chan struct{}), make(chan struct{})
	d.session.tree.now = func() time.Time {
		waiting <- struct{}{}
		<-goOn
		return time.Now()
	}
	slow := driver.Send(1, [][]byte{append(c.header(opOpen, node, 8), words(uint32(0), uint32(0))...)}, []int{replySize + 16})
	<-waiting
	if _, err := c.write(node, handle, 0, []byte("fast")); err != nil {
		t.Errorf("write: %v", err)
	}
	c.forget(node, 1) // hiprio: does not wait for a worker
	if slow.Done() {
		t.Error("the slow request has been answered")
	}
	stopped := make(chan struct{})
	go func() { driver.Stop(); close(stopped) }()
	close(goOn)
	<-stopped // and Driver.Stop has checked that all chains are back
	if !slow.Done() {
		t.Error("Stop did not wait for the slow request")
	}
}

func TestReadOnly(t *testing.T) {
	host := t.TempDir()
	must(t, os.WriteFile(host+"/f", []byte("data"), 0o644))
	old := time.Unix(1e9, 0)
	must(t, os.Chtimes(host+"/f", old, old))
	c := direct(t, newDevice(t, Options{Dir: host, ReadOnly: true}))
	f, err := c.lookup(root, "f")
	must(t, err)
	for op, r := range rules {
		if r.effect != changes {
			continue
		}
		args := []any{make([]byte, r.fixed-headerSize)}
		for range r.names {
			args = append(args, "new")
		}
		if _, err := c.call(op, root, 256, args...); err != unix.EROFS {
			t.Errorf("%v: %v", op, err)
		}
	}
	for _, flags := range []uint32{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC, 3} {
		if _, err := c.open(f.NodeId, flags); err != unix.EROFS {
			t.Errorf("open with %#x: %v", flags, err)
		}
	}
	handle, err := c.open(f.NodeId, unix.O_RDONLY)
	must(t, err)
	if got, err := c.read(f.NodeId, handle, 0, 100); string(got) != "data" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if _, _, err := c.list(root, opReaddir, 4096); err != nil {
		t.Errorf("list: %v", err)
	}
	var s unix.Stat_t
	must(t, unix.Stat(host+"/f", &s))
	if s.Atim.Sec != 1e9 {
		t.Errorf("reading left an access time behind: %v", s.Atim)
	}
}

// TestDescriptors knows more files than it may have open.
func TestDescriptors(t *testing.T) {
	host := t.TempDir()
	const files, limit = 1000, 128
	before := openFiles(t)
	c := direct(t, newDevice(t, Options{Dir: host, Descriptors: limit}))
	dir, err := c.mkdir(root, "a")
	must(t, err)
	sub, err := c.mkdir(dir.NodeId, "b")
	must(t, err)
	nodes := map[string]fuse.EntryOut{}
	for i := range files {
		name := fmt.Sprintf("f%d", i)
		must(t, os.WriteFile(filepath.Join(host, "a/b", name), []byte(name), 0o644))
		nodes[name], err = c.lookup(sub.NodeId, name)
		must(t, err)
	}
	if n := openFiles(t) - before; n > limit {
		t.Errorf("%d descriptors are open; %d may be", n, limit)
	}
	must(t, c.rename(root, "a", root, "renamed", 0))
	for name, e := range nodes {
		attr, err := c.getattr(e.NodeId)
		if err != nil || attr.Ino != e.Ino {
			t.Fatalf("%s: inode %d, %v; want %d", name, attr.Ino, err, e.Ino)
		}
	}
	// Unlinked by the guest, it stays; replaced by the host, it is gone.
	must(t, c.unlink(sub.NodeId, "f1"))
	if attr, err := c.getattr(nodes["f1"].NodeId); err != nil || attr.Nlink != 0 {
		t.Errorf("unlinked: %d links, %v", attr.Nlink, err)
	}
	must(t, os.WriteFile(host+"/new", []byte("another"), 0o644))
	must(t, os.Rename(host+"/new", host+"/renamed/b/f2"))
	for i := range files {
		if i > 2 {
			_, err := c.getattr(nodes[fmt.Sprintf("f%d", i)].NodeId) // closes f2's descriptor
			must(t, err)
		}
	}
	if _, err := c.getattr(nodes["f2"].NodeId); err != unix.ESTALE {
		t.Errorf("replaced on the host: %v", err)
	}
	if e, err := c.lookup(sub.NodeId, "f2"); err != nil || e.NodeId == nodes["f2"].NodeId {
		t.Errorf("what replaced it: inode %d, %v", e.NodeId, err)
	}
	// As many open files as there may be, and one more.
	var handles []uint64
	for {
		h, err := c.open(nodes["f9"].NodeId, unix.O_RDONLY)
		if err != nil {
			if err != unix.ENFILE || len(handles) != limit/4 {
				t.Errorf("after %d open files: %v", len(handles), err)
			}
			break
		}
		handles = append(handles, h)
	}
	if n := openFiles(t) - before; n > limit+2 { // the root and /proc/self/fd
		t.Errorf("%d descriptors are open; %d may be", n, limit)
	}
	_, err = c.call(opDestroy, 0, 0)
	must(t, err)
	if n := openFiles(t) - before; n > 2 {
		t.Errorf("%d descriptors are open after an unmount", n)
	}
}

func TestForget(t *testing.T) {
	host := t.TempDir()
	d := newDevice(t, Options{Dir: host})
	c := direct(t, d)
	must(t, os.WriteFile(host+"/f", nil, 0o644))
	known := func() int { return len(d.session.tree.inodes.ids) }
	for range 3 {
		_, err := c.lookup(root, "f")
		must(t, err)
	}
	f, err := c.lookup(root, "f")
	must(t, err)
	c.forget(f.NodeId, 3)
	if _, err := c.getattr(f.NodeId); err != nil || known() != 2 {
		t.Errorf("after 3 of 4: %v, %d inodes", err, known())
	}
	_, _ = c.call(opBatchForget, 0, 0, uint32(2), uint32(0), f.NodeId, uint64(1), uint64(99), uint64(1))
	if _, err := c.getattr(f.NodeId); err != unix.ESTALE || known() != 1 {
		t.Errorf("forgotten: %v, %d inodes", err, known())
	}
	c.forget(root, 1<<63) // the root is not forgotten
	again, err := c.lookup(root, "f")
	must(t, err)
	if again.NodeId == f.NodeId {
		t.Error("a number was given twice")
	}
	c.forget(again.NodeId, ^uint64(0))
	if known() != 1 {
		t.Errorf("%d inodes", known())
	}
	// A directory is known as long as something in it is.
	dir, err := c.mkdir(root, "d")
	must(t, err)
	sub, err := c.mkdir(dir.NodeId, "e")
	must(t, err)
	c.forget(dir.NodeId, 1)
	if known() != 3 {
		t.Errorf("%d inodes; want the root and two", known())
	}
	c.forget(sub.NodeId, 1)
	if known() != 1 {
		t.Errorf("%d inodes are left", known())
	}
	// READDIRPLUS looks up.
	_, entries, err := c.list(root, opReaddirplus, 4096)
	must(t, err)
	if known() != 3 {
		t.Errorf("%d inodes after READDIRPLUS of two", known())
	}
	for _, e := range entries {
		if e.NodeId != 0 {
			c.forget(e.NodeId, 1)
		}
	}
	if known() != 1 {
		t.Errorf("%d inodes are left after READDIRPLUS", known())
	}
}

func TestSnapshot(t *testing.T) {
	host := t.TempDir()
	first := newDevice(t, Options{Dir: host})
	c, driver := driven(t, first, ringFeatures)
	dir, err := c.mkdir(root, "d")
	must(t, err)
	node, handle, err := c.create(dir.NodeId, "f", unix.O_RDWR)
	must(t, err)
	_, err = c.write(node, handle, 0, []byte("before"))
	must(t, err)
	gone, goneHandle, err := c.create(dir.NodeId, "gone", unix.O_RDWR)
	must(t, err)
	must(t, c.unlink(dir.NodeId, "gone"))
	must(t, c.rename(root, "d", root, "moved", 0))
	listing, err := c.openDir(dir.NodeId)
	must(t, err)

	driver.Replace(newDevice(t, Options{Dir: host}))
	if got, err := c.read(node, handle, 0, 10); string(got) != "before" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := c.write(node, handle, 6, []byte(" after")); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(host + "/moved/f"); string(got) != "before after" {
		t.Errorf("host has %q", got)
	}
	if e, err := c.lookup(dir.NodeId, "f"); err != nil || e.NodeId != node {
		t.Errorf("lookup: inode %d, %v; want %d", e.NodeId, err, node)
	}
	if _, err := c.read(gone, goneHandle, 0, 10); err != unix.ESTALE {
		t.Errorf("a file without a name: %v", err)
	}
	if _, err := c.getattr(gone); err != unix.ESTALE {
		t.Errorf("its attributes: %v", err)
	}
	must(t, c.release(goneHandle))
	if _, err := c.call(opReaddir, dir.NodeId, 4096, listing, uint64(0), uint32(4096), uint32(0), uint64(0), uint32(0), uint32(0)); err != nil {
		t.Errorf("a directory that was open: %v", err)
	}
	if other, _, err := c.create(root, "new", unix.O_RDWR); err != nil || other == node || other == gone {
		t.Errorf("create: inode %d, %v", other, err)
	}
}

func TestRestoreBad(t *testing.T) {
	host := t.TempDir()
	d := newDevice(t, Options{Dir: host})
	c := direct(t, d)
	_, err := c.mkdir(root, "d")
	must(t, err)
	good, err := d.Save()
	must(t, err)
	for _, test := range []struct{ name, state, want string }{
		{"cut short", string(good[:len(good)/2]), "unexpected EOF"},
		{"version", strings.Replace(string(good), `"Version":1`, `"Version":9`, 1), "version 9"},
		{"twice", strings.Replace(string(good), `"Inodes":[{"ID":2`, `"Inodes":[{"ID":1`, 1), "inode 1 twice"},
	} {
		err := newDevice(t, Options{Dir: host}).Restore([]byte(test.state))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", test.name, err, test.want)
		}
	}
	if err := newDevice(t, Options{Dir: t.TempDir()}).Restore(good); err == nil || !strings.Contains(err.Error(), "not the directory") {
		t.Errorf("another directory: %v", err)
	}
	must(t, newDevice(t, Options{Dir: host}).Restore(good))
}

// TestReset is a guest that reboots in the middle of everything.
func TestReset(t *testing.T) {
	before := openFiles(t)
	d := newDevice(t, Options{})
	c, driver := driven(t, d, 0)
	node, _, err := c.create(root, "f", unix.O_RDWR)
	must(t, err)
	driver.Reset()
	if _, err := c.getattr(node); err != unix.EIO {
		t.Errorf("before INIT: %v", err)
	}
	c.begin()
	if _, err := c.getattr(node); err != unix.ESTALE {
		t.Errorf("an inode of before: %v", err)
	}
	if n := openFiles(t) - before; n > 2 {
		t.Errorf("%d descriptors are open after a reset", n)
	}
}

func TestBreach(t *testing.T) {
	for _, test := range []struct {
		name string
		out  []byte
		in   int
	}{
		{"no header", make([]byte, 39), 100},
		{"nothing", nil, 100},
		{"no room to answer", (&client{t: t}).header(opStatfs, root, 0), 15},
	} {
		driver := virtiotest.Start(t, newDevice(t, Options{}), 0)
		driver.Do(1, test.out, test.in)
		if err := driver.WaitFailed(); err == nil || !strings.Contains(err.Error(), "fs: ") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestErrors sends each request cut off, too long, and to nobody.
func TestErrors(t *testing.T) {
	c := direct(t, newDevice(t, Options{}))
	for op, r := range rules {
		if op.silent() || r.refusal != 0 || op == opInit || op == opDestroy {
			continue
		}
		if n := r.fixed - headerSize - 1; n > 0 {
			if _, err := c.call(op, root, 256, make([]byte, n)); err != unix.EINVAL {
				t.Errorf("%v cut off: %v", op, err)
			}
		}
		if r.names > 0 && op != opSetxattr {
			if _, err := c.call(op, root, 256, make([]byte, r.fixed-headerSize), []byte("no end")); err != unix.EINVAL {
				t.Errorf("%v with a name without end: %v", op, err)
			}
		}
		var want error = unix.E2BIG
		if op == opWrite {
			want = unix.EINVAL
		}
		if _, err := c.call(op, root, 256, make([]byte, maxRequest)); err != want {
			t.Errorf("%v too long: %v", op, err)
		}
	}
	for _, op := range []opcode{0, 7, 41, 48, 49, 52, 4096, 1 << 31} {
		if _, err := c.call(op, root, 256, make([]byte, 64)); err != unix.ENOSYS {
			t.Errorf("%v: %v", op, err)
		}
	}
	for _, node := range []uint64{0, 2, 77, 1 << 63, ^uint64(0) - 1} {
		if _, err := c.getattr(node); err != unix.ESTALE {
			t.Errorf("inode %#x: %v", node, err)
		}
	}
	if _, err := c.read(root, 1234, 0, 10); err != unix.EBADF {
		t.Errorf("a handle that never was: %v", err)
	}
	if _, err := c.call(opRead, root, 64, uint64(1), uint64(0), uint32(maxIO+1), uint32(0), uint64(0), uint64(0)); err != unix.EINVAL {
		t.Errorf("a huge read: %v", err)
	}
}

// TestAppend: what a guest's page cache writes back goes where it says, also
// through a file that appends.
func TestAppend(t *testing.T) {
	host := t.TempDir()
	c := direct(t, newDevice(t, Options{Dir: host}))
	node, handle, err := c.create(root, "f", unix.O_RDWR|unix.O_APPEND)
	must(t, err)
	write := func(at uint64, writeFlags, flags uint32, data string) {
		t.Helper()
		_, err := c.call(opWrite, node, 8, handle, at, uint32(len(data)), writeFlags, uint64(0), flags, uint32(0), []byte(data))
		must(t, err)
	}
	write(0, 0, unix.O_APPEND, "one ")
	write(0, 0, unix.O_APPEND, "two ")
	write(0, fuse.WRITE_CACHE, unix.O_APPEND, "ONE")
	write(4, 0, 0, "TWO") // fcntl took O_APPEND away
	write(0, 0, unix.O_APPEND|unix.O_SYNC, "end")
	if got, _ := os.ReadFile(host + "/f"); string(got) != "ONE TWO end" {
		t.Errorf("the host has %q", got)
	}
}

// TestShortReads has a host whose file system gives a little at a time, or is
// interrupted. A guest that got less than it asked for would cut its file off.
func TestShortReads(t *testing.T) {
	d := newDevice(t, Options{})
	c := direct(t, d)
	node, handle, err := c.create(root, "f", unix.O_RDWR)
	must(t, err)
	data := bytes.Repeat([]byte("0123456789"), 1000)
	_, err = c.write(node, handle, 0, data)
	must(t, err)
	calls := 0
	d.session.tree.preadv = func(fd int, to [][]byte, at int64) (int, error) {
		if calls++; calls%3 == 0 {
			return -1, unix.EINTR
		}
		return unix.Preadv(fd, head(to, 777), at)
	}
	for _, at := range []int{0, 500, 9990, 10000, 20000} {
		got, err := c.read(node, handle, uint64(at), 16<<10)
		if want := data[min(at, len(data)):]; err != nil || !bytes.Equal(got, want) {
			t.Errorf("read at %d: %d bytes, %v; want %d", at, len(got), err, len(want))
		}
	}
	d.session.tree.preadv = func(fd int, to [][]byte, at int64) (int, error) {
		if at > 0 {
			return -1, unix.EIO
		}
		return unix.Preadv(fd, head(to, 777), at)
	}
	if _, err := c.read(node, handle, 0, 16<<10); err != unix.EIO {
		t.Errorf("a read that fails half way: %v", err)
	}
}

func TestSync(t *testing.T) {
	c := direct(t, newDevice(t, Options{Dir: fastDir(t)}))
	node, handle, err := c.create(root, "f", unix.O_RDWR)
	must(t, err)
	dir, err := c.openDir(root)
	must(t, err)
	for _, test := range []struct {
		what   string
		op     opcode
		handle uint64
		flags  uint32
		want   error
	}{
		{"fsync", opFsync, handle, 0, nil},
		{"fdatasync", opFsync, handle, 1, nil},
		{"fsync of a directory", opFsyncdir, dir, 0, nil},
		{"fsync of nothing", opFsync, 99, 0, unix.EBADF},
		{"syncfs", opSyncfs, 0, 0, nil},
	} {
		if _, err := c.call(test.op, node, 0, test.handle, test.flags, uint32(0)); err != test.want {
			t.Errorf("%s: %v; want %v", test.what, err, test.want)
		}
	}
}

// TestKeepCache: the guest keeps its pages of a file that nobody changed.
func TestKeepCache(t *testing.T) {
	host := t.TempDir()
	d := newDevice(t, Options{Dir: host})
	later := time.Duration(0)
	d.session.tree.now = func() time.Time { return time.Now().Add(later) }
	c := direct(t, d)
	must(t, os.WriteFile(host+"/f", []byte("one"), 0o644))
	f, err := c.lookup(root, "f")
	must(t, err)
	for _, test := range []struct {
		what  string
		do    func()
		keeps bool
	}{
		{"a file just written", func() {}, false},
		{"one that could still be changing", func() {}, false},
		{"one that has been quiet", func() { later = time.Hour }, false},
		{"one that was quiet, and is", func() {}, true},
		{"one that the host changed", func() { must(t, os.WriteFile(host+"/f", []byte("two"), 0o644)) }, false},
		{"one that was quiet again", func() {}, true},
		{"one whose time was set back", func() {
			must(t, os.WriteFile(host+"/f", []byte("six"), 0o644))
			must(t, os.Chtimes(host+"/f", time.Unix(1, 0), time.Unix(1, 0)))
		}, false},
	} {
		test.do()
		b, err := c.call(opOpen, f.NodeId, 16, uint32(0), uint32(0))
		out, err := decode[fuse.OpenOut](c, b, err)
		must(t, err)
		if keeps := out.OpenFlags&fuse.FOPEN_KEEP_CACHE != 0; keeps != test.keeps {
			t.Errorf("%s: the cache is kept: %v", test.what, keeps)
		}
	}
}

// TestUnprivileged runs the others as nobody: files belong to whom the VMM runs as.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to give it up; the other tests have run without it already: run the tests as root")
	}
	dir := t.TempDir()
	must(t, os.Chown(dir, 65534, 65534))
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	const which = "^(TestModel|TestReadOnly|TestHostile.*|TestDescriptors|TestSnapshot|TestForget|TestErrors)$"
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run="+which)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMknodDevices(t *testing.T) {
	c := direct(t, newDevice(t, Options{}))
	for mode, want := range map[uint32]error{
		unix.S_IFBLK: unix.EPERM, unix.S_IFCHR: unix.EPERM, unix.S_IFDIR: unix.EPERM, unix.S_IFLNK: unix.EPERM, unix.S_IFIFO: nil,
	} {
		if _, err := c.call(opMknod, root, entrySize, mode|0o600, uint32(unix.Mkdev(1, 3)), uint32(0), uint32(0), "n"); !errors.Is(err, want) {
			t.Errorf("mknod %o: %v; want %v", mode, err, want)
		}
	}
}
