package vfs

import "strings"

// Mapped is a file as /proc/PID/maps names it, from the root of the container, and how it
// was open.
type Mapped struct {
	Path
	Readable, Writable bool
}

func (m Mapped) Name() string { return Name(Path{}, m.Path) }

// Name is p as somebody whose root is root sees it (fs/d_path.c, d_path).
func Name(root, p Path) string {
	if p.Dentry.anon && p.Mount.on.Load() == nil {
		return p.Dentry.Name()
	}
	s, ok := name(root, p)
	if !ok {
		s = "(unreachable)" + s
	}
	if p.Dentry.Dead() {
		s += " (deleted)"
	}
	return s
}

// name is the path from root to p; from the top of the tree, and false, if root
// is not above p.
func name(root, p Path) (string, bool) {
	parts := make([]string, 0, 16)
	for p != root {
		up, ok := p.up()
		if !ok {
			return join(parts), !root.Ok()
		}
		if up == root {
			break
		}
		at := up.Dentry.at.Load()
		if at.parent == nil {
			return join(parts), false // the root of a detached mount
		}
		parts = append(parts, at.name)
		p = Path{up.Mount, at.parent}
	}
	return join(parts), true
}

// path is d's name within its file system.
func (d *Dentry) path() string {
	var parts []string
	for at := d.at.Load(); at.parent != nil; at = at.parent.at.Load() {
		parts = append(parts, at.name)
	}
	return join(parts)
}

// join puts components, the last one first, into a path.
func join(parts []string) string {
	if len(parts) == 0 {
		return "/"
	}
	n := 0
	for _, p := range parts {
		n += len(p) + 1
	}
	var b strings.Builder
	b.Grow(n)
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteByte('/')
		b.WriteString(parts[i])
	}
	return b.String()
}
