package debian

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"bulkhead/kernels/cache"
)

// ELF is the kernel proper, which its image holds packed by xz: a machine that is
// emulated spends more time on unpacking it than on booting it.
// Documentation/x86/boot.rst, payload_offset.
func (k *Kernel) ELF(ctx context.Context) (string, error) {
	dir, err := cache.Fill(ctx, "vmlinux", cache.Key("1", k.Release, k.Version), func(dir string) error {
		if err := k.unpack(ctx, filepath.Join(dir, "vmlinux")); err != nil {
			return fmt.Errorf("debian: unpack kernel %s: %w", k.Image, err)
		}
		return nil
	})
	return filepath.Join(dir, "vmlinux"), err
}

func (k *Kernel) unpack(ctx context.Context, name string) error {
	tools, err := Fetch(ctx, "xz-utils")
	if err != nil {
		return err
	}
	image, err := os.ReadFile(k.Image)
	if err != nil {
		return err
	}
	payload, err := payloadOf(image)
	if err != nil {
		return err
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	xz := exec.CommandContext(ctx, filepath.Join(tools.Dir, "usr/bin/xz"), "-dc")
	var complaint bytes.Buffer
	xz.Stdin, xz.Stdout, xz.Stderr = bytes.NewReader(payload), out, &complaint
	if err := xz.Run(); err != nil {
		return fmt.Errorf("xz: %w: %s", err, lastLine(complaint.String()))
	}
	return out.Close()
}

// payloadOf is the packed kernel in a bzImage, without the size that the kernel's
// Makefile puts behind it.
func payloadOf(image []byte) ([]byte, error) {
	const (
		sectors, magic, at, length = 0x1f1, 0x202, 0x248, 0x24c
		headEnd                    = 0x250
	)
	if len(image) < headEnd || string(image[magic:magic+4]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	start := (uint64(image[sectors]) + 1) * 512
	start += uint64(binary.LittleEndian.Uint32(image[at:]))
	size := uint64(binary.LittleEndian.Uint32(image[length:]))
	if size < 4 || start > uint64(len(image)) || size > uint64(len(image))-start {
		return nil, errors.New("its payload is not within it")
	}
	return image[start : start+size-4], nil
}
