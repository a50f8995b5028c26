// Package initramfs lays files out as an initramfs: a cpio archive in the newc
// format (Documentation/driver-api/early-userspace/buffer-format.rst). It makes
// headers only. Contents stay where they are until boot.Load reads them straight
// into guest memory, so that an init of a few MB is copied once.
package initramfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"bulkhead/vmm/boot"

	"golang.org/x/sys/unix"
)

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
	dirMode = unix.S_IFDIR | 0o755

	nameLimit = unix.PathMax // init/initramfs.c, do_header skips longer ones
	sizeLimit = 1<<32 - 1    // eight hexadecimal digits
)

// File is a regular file or a symbolic link; it belongs to root.
type File struct {
	Path string // in the guest; directories on the way to it are made
	Perm fs.FileMode
	Link string // target: then it is a symbolic link, without content

	Content io.ReaderAt
	Size    int64 // bytes
}

// Bytes is a file with the content b.
func Bytes(name string, perm fs.FileMode, b []byte) File {
	return File{Path: name, Perm: perm, Content: bytes.NewReader(b), Size: int64(len(b))}
}

// Copy is a file with the content of f, which stays open until the kernel is loaded.
func Copy(name string, perm fs.FileMode, f *os.File) (File, error) {
	info, err := f.Stat()
	if err != nil {
		return File{}, fmt.Errorf("initramfs: %w", err)
	}
	if !info.Mode().IsRegular() {
		return File{}, fmt.Errorf("initramfs: %s is not a regular file", f.Name())
	}
	return File{Path: name, Perm: perm, Content: f, Size: info.Size()}, nil
}

// Build is an archive of files, in their order, as parts for boot.Params.Initrd,
// before or after others. It relies on what boot promises: each part begins at
// a multiple of four bytes, which is all the padding that newc has.
func Build(files ...File) ([]boot.Part, error) {
	a := archive{seen: map[string]bool{".": true}}
	for _, f := range files {
		if err := a.add(f); err != nil {
			return nil, fmt.Errorf("initramfs: file %q: %w", f.Path, err)
		}
	}
	a.entry(trailer, 0, 0)
	a.flush()
	return a.parts, nil
}

// archive is under construction.
type archive struct {
	parts []boot.Part
	head  []byte // headers since the last content
	inode int
	seen  map[string]bool // by path; false is a file
}

func (a *archive) add(f File) error {
	name := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
	link := f.Link != ""
	switch dir, taken := a.seen[name]; {
	case name == "" || strings.ContainsRune(f.Path+f.Link, 0) || len(name) >= nameLimit || len(f.Link) >= nameLimit:
		return fmt.Errorf("no file can have this name or target")
	case taken:
		return fmt.Errorf("is there already (a directory: %v)", dir)
	case f.Size < 0 || f.Size > sizeLimit:
		return fmt.Errorf("has %d bytes; a cpio archive takes %d", f.Size, sizeLimit)
	case link != (f.Content == nil):
		return fmt.Errorf("wants either content or the target of a link")
	}
	if err := a.mkdir(path.Dir(name)); err != nil {
		return err
	}
	a.seen[name] = false
	if link {
		a.entry(name, unix.S_IFLNK|0o777, int64(len(f.Link)))
		a.head = append(a.head, f.Link...)
		a.pad()
		return nil
	}
	a.entry(name, unix.S_IFREG|uint32(f.Perm.Perm()), f.Size)
	a.flush()
	a.parts = append(a.parts, boot.Part{ReaderAt: f.Content, Size: f.Size, Name: f.Path})
	return nil
}

// mkdir makes dir and those above it: the kernel makes none by itself.
func (a *archive) mkdir(dir string) error {
	if isDir, seen := a.seen[dir]; seen {
		if !isDir {
			return fmt.Errorf("lies in %q, which is no directory", dir)
		}
		return nil
	}
	if err := a.mkdir(path.Dir(dir)); err != nil {
		return err
	}
	a.seen[dir] = true
	a.entry(dir, dirMode, 0)
	return nil
}

// entry writes a header and a name. Inode numbers differ, and a link count of
// one keeps the kernel from looking for hard links. All times are zero, so that
// the same files make the same archive.
func (a *archive) entry(name string, mode uint32, size int64) {
	a.inode++
	a.head = append(a.head, magic...)
	for _, field := range []int64{
		int64(a.inode), int64(mode), 0, 0, 1, 0, // inode, mode, user, group, links, time
		size, 0, 0, 0, 0, // size, device of the file system, device that it is
		int64(len(name)) + 1, 0, // with the final zero; checksum
	} {
		a.head = fmt.Appendf(a.head, "%08X", field)
	}
	a.head = append(a.head, name...)
	a.head = append(a.head, 0)
	a.pad()
}

func (a *archive) pad() { a.head = append(a.head, make([]byte, -len(a.head)&3)...) }

// flush ends a run of headers.
func (a *archive) flush() {
	a.parts = append(a.parts, boot.Part{ReaderAt: bytes.NewReader(a.head), Size: int64(len(a.head)), Name: "headers"})
	a.head = nil
}
