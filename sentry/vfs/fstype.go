package vfs

// FSType makes file systems of one type for mount(2) and fsopen(2).
type FSType struct {
	Name string
	// New makes one, or says why not. A file system that is mounted already may be
	// what it returns (mqueue, of an IPC namespace).
	New func(ctx Context, o FSOptions) (FileSystem, error)
	// Known says whether an option is one of the type's; nil: anything may be.
	Known func(option string) error
	// Revealing: what it shows may be hidden elsewhere, as parts of /proc are.
	Revealing bool
	// Hidden: not in /proc/filesystems, another name of a type that is.
	Hidden bool
}

// FSOptions are what a file system is made from.
type FSOptions struct {
	Source   string
	Data     string // options, with commas between
	ReadOnly bool
	Start    Start // where names in Data begin
}

// Under reports whether p is top or below it, both on one mount.
func (p Path) Under(top Path) bool { return p.Mount == top.Mount && p.Dentry.under(top.Dentry) }

// Pin keeps a file system that another one stands on from its Release; Unpin lets it go.
func (s *Super) Pin()   { s.take() }
func (s *Super) Unpin() { s.drop() }

// FS is the file system.
func (s *Super) FS() FileSystem { return s.fs }
