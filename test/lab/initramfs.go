package main

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// writeInitramfs makes a cpio archive in which init is /init, with the console
// that the kernel opens for it (Documentation/driver-api/early-userspace/buffer-format.rst).
func writeInitramfs(name, init string) error {
	program, err := os.ReadFile(init)
	if err != nil {
		return fmt.Errorf("make an initramfs: %w", err)
	}
	var archive bytes.Buffer
	entry := func(name string, mode uint32, major, minor int, content []byte) {
		fmt.Fprintf(&archive, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			0, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
		align(&archive)
		archive.Write(content)
		align(&archive)
	}
	entry("dev", unix.S_IFDIR|0o755, 0, 0, nil)
	entry("dev/console", unix.S_IFCHR|0o600, 5, 1, nil)
	entry("init", unix.S_IFREG|0o755, 0, 0, program)
	entry("TRAILER!!!", 0, 0, 0, nil)
	if err := os.WriteFile(name, archive.Bytes(), 0o644); err != nil {
		return fmt.Errorf("make an initramfs: %w", err)
	}
	return nil
}

func align(b *bytes.Buffer) { b.Write(make([]byte, -b.Len()&3)) }
