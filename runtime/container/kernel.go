package container

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// GuestKernel is the version of the kernel that machines boot, as it tells it itself in its
// banner (init/version.c, linux_banner). The error says that there is none, or where that is not
// to be read: a bzImage has it packed.
func GuestKernel() (string, error) {
	f, err := openBeside("vmlinux", "make it (make kernel)")
	if err != nil {
		return "", err
	}
	defer f.Close()
	version, err := banner(f)
	if err != nil {
		return "", fmt.Errorf("%s: %w", f.Name(), err)
	}
	return version, nil
}

func banner(r io.Reader) (string, error) {
	const longest = 64 // bytes; __NEW_UTS_LEN
	word := []byte("Linux version ")
	window := make([]byte, 1<<20)
	kept := 0
	for {
		n, err := io.ReadFull(r, window[kept:])
		text := window[:kept+n]
		for {
			_, after, found := bytes.Cut(text, word)
			if !found || len(after) < longest && err == nil {
				break
			}
			version, _, ended := bytes.Cut(after[:min(len(after), longest)], []byte(" "))
			if ended && len(version) > 0 && version[0] >= '0' && version[0] <= '9' {
				return "Linux " + string(version), nil
			}
			text = after // the word in a message of the kernel's
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return "", err
			}
			return "", errors.New("tells no version")
		}
		kept = copy(window, window[len(window)-longest-len(word):])
	}
}
