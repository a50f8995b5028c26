package cli

import (
	"fmt"
	"os"

	"bulkhead/vmm/boot"
)

// initrd opens the parts of the initramfs.
func (r *run) initrd() ([]boot.Part, error) {
	var parts []boot.Part
	for _, path := range r.words.Initrd {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("initrd: %w", err)
		}
		r.closers = append(r.closers, f.Close)
		st, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("initrd: %w", err)
		}
		if !st.Mode().IsRegular() {
			return nil, fmt.Errorf("initrd %s: not a regular file", path)
		}
		parts = append(parts, boot.Part{ReaderAt: f, Size: st.Size(), Name: path})
	}
	return parts, nil
}
