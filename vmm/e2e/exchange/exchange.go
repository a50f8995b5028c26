// Package exchange is what both ends of a connection do in the tests of sockets between
// guest and host: each sends bytes and their checksum, and checks the other's. It takes
// little of a processor, since one end may be emulated twice over.
package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Do sends n bytes, which seed makes, and takes n of the other end, both at once.
func Do(c io.ReadWriter, n int64, seed uint64) error {
	sent := make(chan error, 1)
	go func() { sent <- send(c, n, seed) }()
	return errors.Join(receive(c, n), <-sent)
}

const (
	block   = 32 << 10 // bytes at once
	sumSize = 4        // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func send(w io.Writer, n int64, seed uint64) error {
	b := make([]byte, block)
	var sum uint32
	for left := n; left > 0; left -= int64(len(b)) {
		b = b[:min(left, block)]
		for i := 0; i+8 <= len(b); i += 8 {
			seed = seed*6364136223846793005 + 1442695040888963407
			binary.LittleEndian.PutUint64(b[i:], seed)
		}
		sum = crc32.Update(sum, castagnoli, b)
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("send %d bytes, of which %d are left: %w", n, left, err)
		}
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint32(nil, sum)); err != nil {
		return fmt.Errorf("send the checksum: %w", err)
	}
	return nil
}

func receive(r io.Reader, n int64) error {
	b := make([]byte, block)
	var sum uint32
	for left := n; left > 0; {
		got, err := r.Read(b[:min(left, block)])
		sum = crc32.Update(sum, castagnoli, b[:got])
		left -= int64(got)
		if err != nil && left > 0 {
			return fmt.Errorf("receive %d bytes, of which %d did not come: %w", n, left, err)
		}
	}
	told := make([]byte, sumSize)
	if _, err := io.ReadFull(r, told); err != nil {
		return fmt.Errorf("receive the checksum: %w", err)
	}
	if binary.LittleEndian.Uint32(told) != sum {
		return errors.New("the checksum differs")
	}
	return nil
}
