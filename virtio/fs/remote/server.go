package remote

import (
	"fmt"
	"net"
	"sync"

	"bulkhead/virtio/fs"
)

// workers bounds the requests that are under way at one time.
const workers = 64

// Serve answers conn's client from s, in memory that is the guest's, until the
// client hangs up (nil) or sends what is no packet.
func Serve(conn *net.UnixConn, s fs.Server, memory []byte) error {
	var work sync.WaitGroup
	defer work.Wait()
	slots := make(chan struct{}, workers)
	buf := make([]byte, maxSize)
	for {
		n, err := conn.Read(buf)
		if err != nil || n == 0 {
			return nil // the client is gone, and nobody is left to tell
		}
		m, err := parse(buf[:n])
		if err == nil && m.kind == answer {
			err = fmt.Errorf("fs: a packet of kind %d in place of a request", m.kind)
		}
		if err != nil {
			return err
		}
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			a := reply(s, memory, &m)
			if b, err := a.bytes(); err == nil {
				_, _ = conn.Write(b) // of a client that is gone, Read will tell
			}
		})
	}
}

func reply(s fs.Server, memory []byte, m *message) message {
	a := message{kind: answer, id: m.id}
	if m.kind == forget {
		s.Forget()
		return a
	}
	in, err := slices(memory, m.in)
	var out [][]byte
	if err == nil {
		out, err = slices(memory, m.out)
	}
	var n int
	if err == nil {
		n, err = s.Handle(in, out)
	}
	if err != nil {
		a.breach = err.Error()
		return a
	}
	a.written = uint32(n)
	return a
}

func slices(memory []byte, parts []part) ([][]byte, error) {
	list := make([][]byte, 0, len(parts))
	for _, p := range parts {
		if p.at > uint64(len(memory)) || uint64(p.len) > uint64(len(memory))-p.at {
			return nil, fmt.Errorf("fs: %d bytes at %#x are not within the memory's %d", p.len, p.at, len(memory))
		}
		end := p.at + uint64(p.len)
		list = append(list, memory[p.at:end:end])
	}
	return list, nil
}
