package vfs

// Remembered is how many names a directory's dentry knows something of.
func (d *Dentry) Remembered() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.children)
}
