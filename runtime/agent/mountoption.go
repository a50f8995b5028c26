package agent

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MountOption is a word of a mount's options, as runtime-spec config.md, "Linux mount
// options" lists them; what is none of these is the file system's.
type MountOption struct {
	Word  string
	Flag  uintptr // MS_
	Clear bool    // the word takes the flag away
}

// MountOptions are all, but for the recursive ones, which have an r before them. Those
// without a flag are taken and mean nothing behind a wall: how mounts propagate, in a
// tree that nobody else sees; when what is written to memory, or by the gofer, is there;
// what is bound, which is told by the mount itself.
var MountOptions = []MountOption{
	{"ro", unix.MS_RDONLY, false}, {"rw", unix.MS_RDONLY, true},
	{"nosuid", unix.MS_NOSUID, false}, {"suid", unix.MS_NOSUID, true},
	{"nodev", unix.MS_NODEV, false}, {"dev", unix.MS_NODEV, true},
	{"noexec", unix.MS_NOEXEC, false}, {"exec", unix.MS_NOEXEC, true},
	{"noatime", unix.MS_NOATIME, false}, {"atime", unix.MS_NOATIME, true},
	{"nodiratime", unix.MS_NODIRATIME, false}, {"diratime", unix.MS_NODIRATIME, true},
	{"relatime", unix.MS_RELATIME, false}, {"norelatime", unix.MS_RELATIME, true},
	{"strictatime", unix.MS_STRICTATIME, false}, {"nostrictatime", unix.MS_STRICTATIME, true},
	{"nosymfollow", unix.MS_NOSYMFOLLOW, false}, {"symfollow", unix.MS_NOSYMFOLLOW, true},
	{"bind", 0, false}, {"rbind", 0, false}, {"defaults", 0, false}, {"remount", 0, false},
	{"private", 0, false}, {"rprivate", 0, false}, {"shared", 0, false}, {"rshared", 0, false},
	{"slave", 0, false}, {"rslave", 0, false}, {"unbindable", 0, false}, {"runbindable", 0, false},
	{"async", 0, false}, {"sync", 0, false}, {"dirsync", 0, false}, {"iversion", 0, false}, {"noiversion", 0, false},
	{"lazytime", 0, false}, {"nolazytime", 0, false}, {"mand", 0, false}, {"nomand", 0, false}, {"loud", 0, false}, {"silent", 0, false},
	{"tmpcopyup", 0, false}, {"idmap", 0, false}, {"ridmap", 0, false},
}

// FindMountOption is the option that a word names. A recursive one is that of the whole
// tree, which a bind mount is here: one mount, whatever was mounted beneath it.
func FindMountOption(word string) (MountOption, bool) {
	for _, o := range MountOptions {
		if o.Word == word || o.Flag != 0 && "r"+o.Word == word {
			return o, true
		}
	}
	return MountOption{}, false
}

// MountWords are all of them, the recursive ones too.
func MountWords() (words []string) {
	for _, o := range MountOptions {
		words = append(words, o.Word)
		if o.Flag != 0 && !strings.HasPrefix(o.Word, "r") {
			words = append(words, "r"+o.Word)
		}
	}
	words = append(words, "rro", "rrw", "rrelatime")
	slices.Sort(words)
	return slices.Compact(words)
}

// ParseMountOptions divides a mount's options into flags and the file system's data.
func ParseMountOptions(options []string) (flags uintptr, data string) {
	var rest []string
	for _, word := range options {
		switch o, ok := FindMountOption(word); {
		case !ok:
			rest = append(rest, word)
		case o.Clear:
			flags &^= o.Flag
		default:
			flags |= o.Flag
		}
	}
	return flags, strings.Join(rest, ",")
}
