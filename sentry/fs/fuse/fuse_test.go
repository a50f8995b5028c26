package fuse

import (
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func TestOptions(t *testing.T) {
	for _, row := range []struct {
		data string
		err  error
	}{
		{"fd=3,rootmode=40000,user_id=0,group_id=0", nil},
		{"fd=3,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=4096,subtype=x", nil},
		{"", unix.EINVAL},
		{"fd=3,rootmode=40000,user_id=0", unix.EINVAL},
		{"fd=-1,rootmode=40000,user_id=0,group_id=0", unix.EINVAL},
		{"fd=3,rootmode=9,user_id=0,group_id=0", unix.EINVAL},
		{"fd=3,rootmode=755,user_id=0,group_id=0", unix.EINVAL},
		{"fd=3,rootmode=40000,user_id=0,group_id=0,nonsense", unix.EINVAL},
	} {
		if _, err := parseOptions(row.data); err != row.err {
			t.Errorf("%q: got %v, want %v", row.data, err, row.err)
		}
	}
}

// FuzzServer feeds what a server may write: to INIT, then to a LOOKUP whose answer is taken apart.
func FuzzServer(f *testing.F) {
	init := le.AppendUint64(le.AppendUint32(le.AppendUint32(nil, 40), 0), 2)
	f.Add(append(init, make([]byte, 24)...), make([]byte, 16+entrySize))
	f.Add([]byte{16, 0, 0, 0, 251, 255, 255, 255, 2, 0, 0, 0, 0, 0, 0, 0}, []byte{1})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		ctx := vfs.SentryContext()
		file, _ := Open(ctx, vfs.Path{}, 0)
		c := file.(*conn)
		if err := c.begin(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, minRead)
		if n, err := c.Read(ctx, memory.Buffers{b}, 0); err != nil || n != inHeader+16 {
			t.Fatalf("INIT is %d bytes, %v", n, err)
		}
		c.Write(ctx, memory.Buffers{first}, 0)
		c.mu.Lock()
		r := c.addLocked(nil, opLookup, rootNode, cstring("x"), true)
		c.mu.Unlock()
		c.Read(ctx, memory.Buffers{b}, 0)
		c.Write(ctx, memory.Buffers{second}, 0)
		select {
		case <-r.done:
			if len(r.reply) >= entrySize {
				fs := &FS{conn: c, nodes: map[uint64]known{}}
				fs.entry(r.reply)
			}
		default:
		}
		c.Release()
		if _, err := c.Read(ctx, memory.Buffers{b}, 0); err == nil {
			t.Error("a connection that has ended still asks")
		}
	})
}
