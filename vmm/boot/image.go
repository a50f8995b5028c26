package boot

import (
	"errors"
	"os"
)

// Image is a kernel that Open has looked at.
type Image struct{}

// Open looks at a kernel: an ELF file or a bzImage. It reads headers only, and
// keeps kernel, which stays open until Load has returned.
func Open(kernel *os.File) (*Image, error) { return nil, errors.New("boot: not yet") }

// Load writes the kernel and all that it is told into mem, which is zero.
func (i *Image) Load(mem Memory, p Params) (Entry, error) {
	return Entry{}, errors.New("boot: not yet")
}
