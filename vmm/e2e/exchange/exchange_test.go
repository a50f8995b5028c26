package exchange

import (
	"net"
	"strings"
	"testing"
)

func TestDo(t *testing.T) {
	a, b := net.Pipe()
	other := make(chan error, 1)
	go func() { other <- Do(b, 100_000, 2) }()
	if err := Do(a, 100_000, 1); err != nil {
		t.Error(err)
	}
	if err := <-other; err != nil {
		t.Error(err)
	}
}

func TestDiffers(t *testing.T) {
	a, b := net.Pipe()
	go func() { _, _ = b.Write(append(make([]byte, 10), 1, 2, 3, 4)) }()
	if err := receive(a, 10); err == nil || !strings.Contains(err.Error(), "differs") {
		t.Errorf("a wrong checksum: %v", err)
	}
}
