package vfs

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// This file holds signatures whose bodies are being written; it goes away.

type Dentry struct{ inode Inode }

type Mount struct{}

func (m *Mount) ID() int           { panic("unwritten") }
func (m *Mount) Flags() MountFlags { panic("unwritten") }
func (m *Mount) FS() FileSystem    { panic("unwritten") }

type Namespace struct{}
type MountFlags uint32
type MountOptions struct {
	Flags  MountFlags
	Source string
	Data   string
}
type MountInfo struct {
	ID, Parent   int
	Dev          uint64
	Root, Point  string
	Flags        MountFlags
	SuperFlags   MountFlags
	Type, Source string
	Data         string
}

func NewNamespace(fs FileSystem, o MountOptions) *Namespace { panic("unwritten") }
func (ns *Namespace) Root() Path                            { panic("unwritten") }
func (ns *Namespace) Mount(ctx Context, at Path, fs FileSystem, o MountOptions) error {
	panic("unwritten")
}
func (ns *Namespace) Bind(ctx Context, from, at Path, recursive bool, flags MountFlags) error {
	panic("unwritten")
}
func (ns *Namespace) Unmount(ctx Context, at Path, flags int) error { panic("unwritten") }
func (ns *Namespace) Remount(ctx Context, at Path, flags MountFlags, data string) error {
	panic("unwritten")
}
func (ns *Namespace) Move(ctx Context, from, to Path) error { panic("unwritten") }
func (ns *Namespace) PivotRoot(ctx Context, root Path, newRoot, putOld Path) error {
	panic("unwritten")
}
func (ns *Namespace) Clone() (*Namespace, func(Path) Path) { panic("unwritten") }
func (ns *Namespace) Mounts(root Path) []MountInfo         { panic("unwritten") }
func (ns *Namespace) Release()                             { panic("unwritten") }

type Path struct {
	Mount  *Mount
	Dentry *Dentry
}

func (p Path) Ok() bool     { return p.Dentry != nil }
func (p Path) Inode() Inode { panic("unwritten") }

type Start struct{ Root, At Path }
type ResolveFlags uint32

const (
	ResolveNoFollow ResolveFlags = 1 << iota
	ResolveDirectory
	ResolveEmpty
	ResolveNoXdev
	ResolveNoMagic
	ResolveNoSymlinks
	ResolveBeneath
	ResolveInRoot
	ResolveCached
)

type OpenHow struct {
	Flags   int
	Mode    uint32
	Resolve uint64
}

// SentryContext is the Sentry itself: root with all capabilities.
func SentryContext() Context { panic("unwritten") }

func Resolve(ctx Context, s Start, name string, f ResolveFlags) (Path, error) { panic("unwritten") }
func ResolveParent(ctx Context, s Start, name string) (dir Path, last string, err error) {
	panic("unwritten")
}
func Open(ctx Context, s Start, name string, how OpenHow) (*Description, error) { panic("unwritten") }
func OpenPath(ctx Context, p Path, flags int) (*Description, error)             { panic("unwritten") }
func Mkdir(ctx Context, s Start, name string, mode uint32) error                { panic("unwritten") }
func Mknod(ctx Context, s Start, name string, mode uint32, dev uint64) (Path, error) {
	panic("unwritten")
}
func MakeSymlink(ctx Context, target string, s Start, name string) error { panic("unwritten") }
func Link(ctx Context, old Path, s Start, name string) error             { panic("unwritten") }
func Unlink(ctx Context, s Start, name string) error                     { panic("unwritten") }
func Rmdir(ctx Context, s Start, name string) error                      { panic("unwritten") }
func Rename(ctx Context, s1 Start, old string, s2 Start, new string, flags uint) error {
	panic("unwritten")
}
func Readlink(ctx Context, p Path) (string, error)                             { panic("unwritten") }
func Stat(ctx Context, p Path) (Attr, error)                                   { panic("unwritten") }
func Statfs(ctx Context, p Path) (unix.Statfs_t, error)                        { panic("unwritten") }
func Chmod(ctx Context, p Path, mode uint32) error                             { panic("unwritten") }
func Chown(ctx Context, p Path, uid, gid uint32) error                         { panic("unwritten") }
func Utimens(ctx Context, p Path, times *[2]unix.Timespec) error               { panic("unwritten") }
func Truncate(ctx Context, p Path, size int64) error                           { panic("unwritten") }
func CheckAccess(ctx Context, p Path, want Access) error                       { panic("unwritten") }
func Getxattr(ctx Context, p Path, name string) ([]byte, error)                { panic("unwritten") }
func Setxattr(ctx Context, p Path, name string, value []byte, flags int) error { panic("unwritten") }
func Removexattr(ctx Context, p Path, name string) error                       { panic("unwritten") }
func Listxattr(ctx Context, p Path) ([]string, error)                          { panic("unwritten") }
func Name(root Path, p Path) string                                            { panic("unwritten") }
func NewDev() uint64                                                           { panic("unwritten") }
func DenyWrite(i Inode) error                                                  { panic("unwritten") }
func AllowWrite(i Inode)                                                       { panic("unwritten") }
func HandleDevice(mode uint32, dev uint64, open func(ctx Context, at Path, flags int) (File, error)) {
	panic("unwritten")
}
func HandleFIFO(open func(ctx Context, at Path, flags int) (File, error)) { panic("unwritten") }

// SlowOpen is a File whose open(2) goes on: a FIFO without its other end. The
// caller of Open waits on Queue until Opened says true (or drops it).
type SlowOpen interface {
	File
	Opened() bool
}

type Owner struct {
	Type   int // F_OWNER_…
	PID    int32
	Signal int
}
type Description struct{}

func NewDescription(f File, p Path, flags int) *Description               { panic("unwritten") }
func NewAnonymous(f File, name string, flags int) *Description            { panic("unwritten") }
func (d *Description) Ref()                                               { panic("unwritten") }
func (d *Description) Unref()                                             { panic("unwritten") }
func (d *Description) OnRelease(f func()) (cancel func())                 { panic("unwritten") }
func (d *Description) File() File                                         { panic("unwritten") }
func (d *Description) Path() Path                                         { panic("unwritten") }
func (d *Description) Inode() Inode                                       { panic("unwritten") }
func (d *Description) Flags() int                                         { panic("unwritten") }
func (d *Description) SetFlags(flags int) error                           { panic("unwritten") }
func (d *Description) Readable() bool                                     { panic("unwritten") }
func (d *Description) Writable() bool                                     { panic("unwritten") }
func (d *Description) Owner() Owner                                       { panic("unwritten") }
func (d *Description) SetOwner(o Owner)                                   { panic("unwritten") }
func (d *Description) Read(ctx Context, dst memory.Buffers) (int, error)  { panic("unwritten") }
func (d *Description) Write(ctx Context, src memory.Buffers) (int, error) { panic("unwritten") }
func (d *Description) Pread(ctx Context, dst memory.Buffers, off int64) (int, error) {
	panic("unwritten")
}
func (d *Description) Pwrite(ctx Context, src memory.Buffers, off int64) (int, error) {
	panic("unwritten")
}
func (d *Description) Seek(ctx Context, off int64, whence int) (int64, error) { panic("unwritten") }
func (d *Description) Pos() int64                                             { panic("unwritten") }
func (d *Description) ReadDir(ctx Context, emit func(Dirent) bool) error      { panic("unwritten") }
func (d *Description) Stat(ctx Context) (Attr, error)                         { panic("unwritten") }
func (d *Description) Truncate(ctx Context, size int64) error                 { panic("unwritten") }
func (d *Description) Allocate(ctx Context, mode uint32, off, n int64) error  { panic("unwritten") }
func (d *Description) Sync(ctx Context, dataOnly bool) error                  { panic("unwritten") }
func (d *Description) Mappable(ctx Context, r memory.MapRequest) (memory.Mappable, error) {
	panic("unwritten")
}
func (d *Description) Ioctl(ctx Context, cmd uint32, arg uint64) (uintptr, error) {
	panic("unwritten")
}
func (d *Description) Ready(mask Events) Events { panic("unwritten") }
func (d *Description) Queue() *Queue            { panic("unwritten") }

type FDTable struct{}

func NewFDTable() *FDTable                          { panic("unwritten") }
func (t *FDTable) Ref()                             { panic("unwritten") }
func (t *FDTable) Unref()                           { panic("unwritten") }
func (t *FDTable) Get(fd int) (*Description, error) { panic("unwritten") }
func (t *FDTable) Cloexec(fd int) (bool, error)     { panic("unwritten") }
func (t *FDTable) SetCloexec(fd int, on bool) error { panic("unwritten") }
func (t *FDTable) Install(d *Description, min int, cloexec bool, limit int) (int, error) {
	panic("unwritten")
}
func (t *FDTable) Dup3(old, new int, cloexec bool, limit int) error { panic("unwritten") }
func (t *FDTable) Close(fd int) error                               { panic("unwritten") }
func (t *FDTable) CloseRange(first, last int)                       { panic("unwritten") }
func (t *FDTable) CloexecRange(first, last int)                     { panic("unwritten") }
func (t *FDTable) CloseOnExec()                                     { panic("unwritten") }
func (t *FDTable) Clone() *FDTable                                  { panic("unwritten") }
func (t *FDTable) FDs() []int                                       { panic("unwritten") }

type Lock struct {
	Type       int16
	Start, End int64
	Owner      any
	PID        int32
}

func Flock(d *Description, op int) error              { panic("unwritten") }
func SetLock(d *Description, l Lock, wait bool) error { panic("unwritten") }
func GetLock(d *Description, l Lock) (Lock, error)    { panic("unwritten") }
func LockQueue(d *Description) *Queue                 { panic("unwritten") }
func ForgetLock(owner any)                            { panic("unwritten") }

type Watch struct {
	Mask   uint32
	Notify func(mask, cookie uint32, name string)
}

func AddWatch(i Inode, w *Watch) { panic("unwritten") }
func RemoveWatch(w *Watch)       { panic("unwritten") }
