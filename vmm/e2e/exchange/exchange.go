// Package exchange is what both ends of a connection do in the tests of sockets between
// guest and host: each sends bytes and their checksum, and checks the other's.
package exchange

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// Do sends n bytes, which seed makes, and takes n of the other end, both at once.
func Do(c io.ReadWriter, n int64, seed uint64) error {
	sent := make(chan error, 1)
	go func() { sent <- send(c, n, seed) }()
	return errors.Join(receive(c, n), <-sent)
}

func send(w io.Writer, n int64, seed uint64) error {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(w, sum), rand.NewChaCha8(key), n); err != nil {
		return fmt.Errorf("send %d bytes: %w", n, err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("send the checksum: %w", err)
	}
	return nil
}

func receive(r io.Reader, n int64) error {
	sum := sha256.New()
	if got, err := io.CopyN(sum, r, n); err != nil {
		return fmt.Errorf("receive %d bytes, of which %d came: %w", n, got, err)
	}
	told := make([]byte, sha256.Size)
	if _, err := io.ReadFull(r, told); err != nil {
		return fmt.Errorf("receive the checksum: %w", err)
	}
	if !bytes.Equal(told, sum.Sum(nil)) {
		return errors.New("the checksum differs")
	}
	return nil
}
