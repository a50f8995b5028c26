// Package loader makes a program out of a file: scripts and their interpreters,
// ELF executables and theirs, the first stack and the vDSO, as fs/exec.c,
// fs/binfmt_script.c and fs/binfmt_elf.c do.
//
// A file is the application's and may say anything. Its headers are read once,
// checked by parseELF, and only the checked form is used.
package loader

import (
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// Program is what execve(2) was asked for.
type Program struct {
	Kernel      *kernel.Kernel
	Arena       *memory.Arena // of the container
	Context     vfs.Context
	Start       vfs.Start
	Name        string
	Args, Env   []string
	Limits      [16]kernel.Limit
	Personality uint32
	NoFollow    bool // AT_SYMLINK_NOFOLLOW
	Empty       bool // AT_EMPTY_PATH
	Traced      bool // by somebody who may not see what privilege would give
	// Shown is what a script's interpreter is given for Name, where that is not a
	// name: /dev/fd/N. Hidden says that N will be closed by then.
	Shown  string
	Hidden bool
}

// maxScripts is how many interpreters may stand before each other (BINPRM_MAX_RECURSION).
const maxScripts = 5

// headerSize is how much of a file decides its kind (BINPRM_BUF_SIZE).
const headerSize = 256

// file is an open program.
type file struct {
	d    *vfs.Description
	attr vfs.Attr
	ctx  vfs.Context // who reads it
}

// reader is the Sentry, which may read what can only be executed, waiting as the task
// that executes it where a server inside has the file (fs/fuse).
type reader struct {
	vfs.Context
	task *kernel.Task
}

// Task is who waits.
func (r reader) Task() *kernel.Task { return r.task }

func readerOf(ctx vfs.Context) vfs.Context {
	if t, ok := ctx.(*kernel.Task); ok {
		return reader{vfs.SentryContext(), t}
	}
	return vfs.SentryContext()
}

// Load makes the address space of a new program. The caller owns the image's
// Space. Errors are execve(2)'s.
func Load(p Program) (kernel.Image, error) {
	f, err := open(p, p.Name, p.NoFollow, p.Empty)
	if err != nil {
		return kernel.Image{}, err
	}
	defer func() { f.close() }()
	exe := f // privilege comes from the first ELF file, never from a script
	if p.Shown == "" {
		p.Shown = p.Name
	}
	execfn := p.Shown
	for depth := 0; ; depth++ {
		head, err := f.head()
		if err != nil {
			return kernel.Image{}, err
		}
		if !strings.HasPrefix(string(head), "#!") {
			break
		}
		if depth == maxScripts {
			return kernel.Image{}, unix.ELOOP
		}
		if p.Hidden {
			return kernel.Image{}, unix.ENOENT
		}
		interp, arg, err := parseScript(head)
		if err != nil {
			return kernel.Image{}, err
		}
		args := []string{interp}
		if arg != "" {
			args = append(args, arg)
		}
		args = append(args, p.Shown)
		if len(p.Args) > 0 {
			args = append(args, p.Args[1:]...)
		}
		p.Args, p.Name, p.Shown = args, interp, interp
		next, err := open(p, interp, false, false)
		if err != nil {
			return kernel.Image{}, err
		}
		f.close()
		f, exe = next, next
	}
	creds, secure, err := privileges(p.Context, exe, p.Traced)
	if err != nil {
		return kernel.Image{}, err
	}
	mm, err := memory.NewSpace(p.Arena, p.Kernel.Platform)
	if err != nil {
		return kernel.Image{}, err
	}
	if p.Personality&addrNoRandomize != 0 {
		mm.Unrandomized()
	}
	mm.SetLimits(p.Limits[unix.RLIMIT_AS].Cur, p.Limits[unix.RLIMIT_DATA].Cur, p.Limits[unix.RLIMIT_STACK].Cur)
	l := load{p: p, mm: mm, execfn: execfn, creds: creds, secure: secure}
	img, err := l.elf(f)
	if err != nil {
		mm.Release()
		return kernel.Image{}, err
	}
	vfs.DenyWrite(f.d.Inode()) // the image's; f has one, so that this cannot fail
	img.Exe, img.Creds, img.Secure = f.d.Path(), creds, secure
	img.Comm = base(execfn)
	return img, nil
}

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// open opens a file for execution.
func open(p Program, name string, noFollow, empty bool) (file, error) {
	flags := vfs.ResolveFlags(0)
	if noFollow {
		flags |= vfs.ResolveNoFollow
	}
	if empty {
		flags |= vfs.ResolveEmpty
	}
	path, err := vfs.Resolve(p.Context, p.Start, name, flags)
	if err != nil {
		return file{}, err
	}
	attr, err := vfs.Stat(p.Context, path)
	if err != nil {
		return file{}, err
	}
	switch {
	case attr.Type() == unix.S_IFLNK:
		return file{}, unix.ELOOP
	case attr.Type() != unix.S_IFREG, path.Mount.Flags()&unix.MS_NOEXEC != 0:
		return file{}, unix.EACCES
	}
	if err := vfs.CheckAccess(p.Context, path, vfs.MayExec); err != nil {
		return file{}, err
	}
	// An execute-only file is read by the kernel all the same.
	ctx := readerOf(p.Context)
	d, err := vfs.OpenPath(ctx, path, unix.O_RDONLY)
	if err != nil {
		return file{}, err
	}
	if err := vfs.DenyWrite(d.Inode()); err != nil {
		d.Unref()
		return file{}, err
	}
	return file{d, attr, ctx}, nil
}

// close lets others write to the file again.
func (f *file) close() {
	vfs.AllowWrite(f.d.Inode())
	f.d.Unref()
}

// head is the start of the file.
func (f *file) head() ([]byte, error) {
	b := make([]byte, headerSize)
	n, err := f.readAt(b, 0)
	return b[:n], err
}

// readAt fills b as far as the file goes.
func (f *file) readAt(b []byte, off int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := f.d.Pread(f.ctx, memory.Buffers{b[done:]}, off+int64(done))
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

// parseScript takes a #! line apart (fs/binfmt_script.c): the interpreter, and
// the rest of the line as one argument.
func parseScript(head []byte) (interp, arg string, err error) {
	line := string(head[2:])
	if i := strings.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	} else if len(head) >= headerSize {
		// The line goes on: only an argument may be cut, not the interpreter.
		rest := strings.TrimLeft(line, " \t")
		if !strings.ContainsAny(rest, " \t") {
			return "", "", unix.ENOEXEC
		}
	}
	if i := strings.IndexByte(line, 0); i >= 0 {
		line = line[:i]
	}
	line = strings.Trim(line, " \t")
	if line == "" {
		return "", "", unix.ENOEXEC
	}
	interp, arg = line, ""
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		interp, arg = line[:i], strings.TrimLeft(line[i:], " \t")
	}
	return interp, arg, nil
}

// accessOf turns a segment's p_flags into an access.
func accessOf(flags uint32) platform.Access {
	var a platform.Access
	if flags&4 != 0 {
		a |= platform.Read
	}
	if flags&2 != 0 {
		a |= platform.Write | platform.Read
	}
	if flags&1 != 0 {
		a |= platform.Exec | platform.Read
	}
	return a
}
