package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Image is a kernel that Open has looked at.
type Image struct {
	file *os.File
	size uint64
	wrap *bzImage // nil: file is the ELF kernel itself
}

// headLen is how much of a file's beginning the parsers see. A bzImage's header
// ends before 0x290, and every linker puts program headers right after ELF's.
const headLen = 4096

// Open looks at a kernel's headers: an ELF file or a bzImage. The Image keeps
// kernel, which must stay open until the last Load.
func Open(kernel *os.File) (*Image, error) {
	i, err := open(kernel)
	if err != nil {
		return nil, fmt.Errorf("boot: kernel %s: %w", kernel.Name(), err)
	}
	return i, nil
}

func open(kernel *os.File) (*Image, error) {
	info, err := kernel.Stat()
	if err != nil {
		return nil, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	i := &Image{file: kernel, size: uint64(info.Size())}
	head := make([]byte, headLen)
	n, err := kernel.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read: %w", cause(err))
	}
	head = head[:n]
	if bytes.HasPrefix(head, elfMagic) {
		_, err := parseELF(head)
		return i, err
	}
	if !isBzImage(head) {
		return nil, errors.New("is neither an ELF file nor a bzImage")
	}
	i.wrap, err = parseBzImage(head, i.size)
	if err == nil {
		err = i.wrap.findFormat(kernel)
	}
	return i, err
}

// String is the image's format, and for a bzImage its compression.
func (i *Image) String() string {
	if i.wrap == nil {
		return "ELF"
	}
	return "bzImage, " + i.wrap.format.name
}

// cause is err without the file's name, which Open and Load say.
func cause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}
