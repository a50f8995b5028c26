package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzRequest: whatever a guest sends, parse keeps what it promises, and reads
// nothing twice: it gets the bytes in segments of any size.
func FuzzRequest(f *testing.F) {
	c := &client{t: f}
	for op, r := range rules {
		body := make([]byte, r.fixed-headerSize)
		for range r.names {
			body = append(body, "name\x00"...)
		}
		f.Add(append(c.header(op, root, len(body)), body...), uint8(17))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		var buf [200]byte
		r, err := parse(pieces(b, int(cut)+1), buf[:])
		var no refused
		switch {
		case errors.As(err, &no):
			if no.errno == 0 {
				t.Errorf("refused with no errno")
			}
			return
		case err != nil:
			if len(b) >= headerSize {
				t.Errorf("%d bytes: %v", len(b), err)
			}
			return
		}
		if got := append(bytes.Clone(r.copied), bytes.Join(r.data, nil)...); !bytes.Equal(got, b) {
			t.Errorf("%v: %d bytes came out as %d", r.opcode, len(b), len(got))
		}
		if len(r.copied) < r.fixed || r.opcode == opWrite && length(r.data) > maxIO {
			t.Errorf("%v: %d bytes copied, %d of data", r.opcode, len(r.copied), length(r.data))
		}
	})
}

// FuzzFS lets a guest send anything to a share. It is told nothing that is not
// there, nothing outside changes, no descriptor is left, and the device answers on.
//
// The input is a program: for each request an opcode, a node and as many bytes of
// body as the next byte says. Nodes are small numbers, or raw requests would
// never meet a file.
func FuzzFS(f *testing.F) {
	step := func(op opcode, node byte, args ...any) []byte {
		body := words(args...)
		return append([]byte{byte(op), node, byte(len(body))}, body...)
	}
	attr := make([]byte, 88)
	f.Add(bytes.Join([][]byte{
		step(opMkdir, 1, uint32(0o755), uint32(0), "d"),
		step(opCreate, 2, uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), "f"),
		step(opWrite, 3, uint64(1), uint64(0), uint32(4), uint32(0), uint64(0), uint64(0), []byte("data")),
		step(opRead, 3, uint64(1), uint64(0), uint32(100), uint32(0), uint64(0), uint64(0)),
		step(opSetattr, 3, attr),
		step(opRename2, 2, uint64(1), uint32(0), uint32(0), "f", "g"),
		step(opLink, 1, uint64(3), "h"),
		step(opSymlink, 1, "s", "../secret"),
		step(opLookup, 1, "s"),
		step(opOpendir, 1, uint64(0)),
		step(opReaddirplus, 1, uint64(2), uint64(0), uint32(4096), uint32(0), uint64(0), uint64(0)),
		step(opForget, 3, uint64(1)),
	}, nil))
	f.Add(bytes.Join([][]byte{
		step(opLookup, 1, ".."),
		step(opLookup, 1, "../secret"),
		step(opSymlink, 1, "out", "../private"),
		step(opLookup, 2, "f"),
		step(opUnlink, 2, "f"),
		step(opMknod, 1, uint32(unix.S_IFIFO|0o644), uint32(0), uint32(0), uint32(0), "p"),
		step(opOpen, 3, uint64(0)),
		step(opTmpfile, 1, uint32(unix.O_RDWR), uint32(0o600), uint64(0), "/"),
		step(opSetxattr, 1, uint32(1), uint32(0), "user.a", "v"),
		step(opListxattr, 1, uint32(64), uint32(0)),
		step(opFallocate, 4, uint64(1), uint64(0), uint64(9), uint32(3), uint32(0)),
		step(opLseek, 4, uint64(1), uint64(0), uint32(3), uint32(0)),
		step(opCopyFileRange, 4, uint64(1), uint64(0), uint64(4), uint64(1), uint64(0), uint64(9), uint64(0)),
		step(opBatchForget, 1, uint32(9), uint32(0), uint64(2), uint64(1)),
		step(opDestroy, 1), step(opInit, 1, uint32(7), uint32(36), uint64(0)),
	}, nil))
	f.Fuzz(func(t *testing.T, program []byte) {
		o := newOutsideIn(t, fastDir(t))
		before := openFiles(t)
		d := newDevice(t, Options{Dir: o.share, Descriptors: 128})
		c := direct(t, d)
		for range 64 { // requests
			if len(program) < 3 {
				break
			}
			op, node, n := opcode(program[0]), program[1], min(int(program[2]), len(program)-3)
			body := program[3 : 3+n]
			program = program[3+n:]
			if tooLarge(op, body) {
				continue
			}
			request := append(c.header(op, uint64(node), n), body...)
			room := make([]byte, 1000)
			if wrote, err := d.session.handle(pieces(request, n%61+20), pieces(room, 300)); err != nil || wrote > len(room) {
				t.Errorf("%v: wrote %d, %v", op, wrote, err)
			}
		}
		o.check(t)
		c.begin()
		if _, err := c.getattr(root); err != nil {
			t.Errorf("the root: %v", err)
		}
		if _, err := c.call(opDestroy, 0, 0); err != nil {
			t.Error(err)
		}
		if left := openFiles(t) - before; left > 2 {
			t.Errorf("%d descriptors are left open", left)
		}
	})
}

// FuzzRestore: a snapshot is a file, and files get damaged.
func FuzzRestore(f *testing.F) {
	dir := fastDir(f)
	must(f, os.MkdirAll(dir+"/d/e", 0o755))
	first := newDevice(f, Options{Dir: dir})
	c := direct(f, first)
	d, err := c.lookup(root, "d")
	must(f, err)
	_, err = c.lookup(d.NodeId, "e")
	must(f, err)
	_, _, err = c.create(d.NodeId, "f", unix.O_RDWR)
	must(f, err)
	_, err = c.openDir(d.NodeId)
	must(f, err)
	state, err := first.Save()
	must(f, err)
	f.Add(state)
	// Directories in one another, and a file in itself.
	for _, change := range [][2]string{{`"Dir":1`, `"Dir":3`}, {`"Dir":2`, `"Dir":4`}, {`"Dir":1`, `"Dir":2`}, {`"Kind":16384`, `"Kind":32768`}} {
		f.Add(bytes.ReplaceAll(state, []byte(change[0]), []byte(change[1])))
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		before := openFiles(t)
		d := newDevice(t, Options{Dir: dir, Descriptors: 128})
		err := d.Restore(state)
		c := direct(t, d)
		if err == nil {
			err = d.Restore(state) // INIT has forgotten it
		}
		for node := uint64(0); node < 6; node++ {
			_, _ = c.call(opGetattr, node, 104, uint32(0), uint32(0), uint64(0))
			_, _ = c.call(opLookup, node, entrySize, "f")
			_ = c.release(node)
		}
		d.Reset()
		if left := openFiles(t) - before; left > 2 {
			t.Errorf("%d descriptors are left open after %v", left, err)
		}
	})
}

// fastDir is in memory, if it can be.
func fastDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "bulkhead-fuzz-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// tooLarge spares the machine that fuzzes: files of exabytes are the host's
// affair (quotas), not a parser's.
func tooLarge(op opcode, body []byte) bool {
	const most = 1 << 20
	at := map[opcode][]int{opSetattr: {16}, opFallocate: {8, 16}, opWrite: {8}, opCopyFileRange: {8, 32, 40}}[op]
	for _, i := range at {
		if len(body) >= i+8 && binary.LittleEndian.Uint64(body[i:]) > most {
			return true
		}
	}
	return op == opSyncfs || op == opFsync || op == opFsyncdir // slow, on a real disk
}
