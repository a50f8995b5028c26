package vfs

// Identified is an inode of a file that other file systems may show as well, by inodes of
// theirs: a file of the host's that is in two attachments, as a volume is that the
// containers of a pod share. Identity is comparable, and the same for all of them; nil: the
// inode is alone.
type Identified interface{ Identity() any }

// Identity is what stands for i's file where it must be the same by whichever way somebody
// comes to it: its locks, who is bound to it, the pipe that it is.
func Identity(i Inode) any {
	if s, ok := i.(Identified); ok {
		if id := s.Identity(); id != nil {
			return id
		}
	}
	return i
}
