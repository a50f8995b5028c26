package wire

// field is a part of a request or reply; what it is encoded as is in
// encodeField and decodeField.
type field uint8

const (
	fID       field = iota // u32
	fName                  // string, a component or empty
	fTo                    // u32
	fToName                // string, a component
	fFlags                 // u32
	fMode                  // u32
	fOwner                 // uid and gid, u32 each
	fRdev                  // u64
	fSet                   // mask, mode, owner, size, two times
	fOffset                // u64
	fNames                 // list of components
	fXattr                 // string
	fTarget                // string
	fData                  // bytes, length in 32 bits
	fReleased              // list of u32
	fAttr
	fDir   // attributes of the directory that changed
	fToDir // of the second one
	fNodes
	fEntries
	fShort
	fStop // errno, u16
	fEnd  // bool
	fRoots
	fStatfs
)

// layout says what a request of one operation holds, and its reply.
type layout struct {
	name           string
	request, reply []field
	fd             bool // the reply may bring a descriptor
}

var layouts = [opEnd]layout{
	Hello: {"hello", nil, []field{fRoots}, false},
	// Walk stops where a name is missing or is a symlink or no directory: Stop is
	// that errno, or 0 if every name was walked (a symlink counts as walked).
	Walk:    {"walk", []field{fID, fFlags, fNames}, []field{fNodes, fStop, fEntries, fEnd}, false},
	GetAttr: {"getattr", []field{fID, fName}, []field{fAttr}, false},
	SetAttr: {"setattr", []field{fID, fName, fSet}, []field{fAttr}, false},
	// Open serves regular files alone: ENXIO for others, for what they lead to is not the gofer's.
	Open: {"open", []field{fID, fName, fFlags}, []field{fAttr}, true},
	// Create makes a regular file that must not exist and opens it read-write.
	Create:  {"create", []field{fID, fName, fMode, fOwner}, []field{fID, fAttr, fDir}, true},
	Tmpfile: {"tmpfile", []field{fID, fMode, fOwner}, []field{fID, fAttr}, true},
	Mkdir:   {"mkdir", []field{fID, fName, fMode, fOwner}, []field{fID, fAttr, fDir}, false},
	Mknod:   {"mknod", []field{fID, fName, fMode, fOwner, fRdev}, []field{fID, fAttr, fDir}, false},
	Symlink: {"symlink", []field{fID, fName, fTarget, fOwner}, []field{fID, fAttr, fDir}, false},
	// Link gives the object ID, or its child Name, the name ToName in To.
	Link: {"link", []field{fID, fName, fTo, fToName}, []field{fAttr, fToDir}, false},
	// Unlink's Flags are 0 or AT_REMOVEDIR.
	Unlink:      {"unlink", []field{fID, fName, fFlags}, []field{fDir}, false},
	Rename:      {"rename", []field{fID, fName, fTo, fToName, fFlags}, []field{fDir, fToDir}, false},
	ReadDir:     {"readdir", []field{fID, fOffset}, []field{fEntries, fEnd}, false},
	Names:       {"names", []field{fID, fOffset}, []field{fShort, fEnd}, false},
	Readlink:    {"readlink", []field{fID, fName}, []field{fTarget}, false},
	GetXattr:    {"getxattr", []field{fID, fName, fXattr}, []field{fData}, false},
	SetXattr:    {"setxattr", []field{fID, fName, fXattr, fFlags, fData}, nil, false},
	ListXattr:   {"listxattr", []field{fID, fName}, []field{fData}, false},
	RemoveXattr: {"removexattr", []field{fID, fName, fXattr}, nil, false},
	Statfs:      {"statfs", []field{fID}, []field{fStatfs}, false},
	// Fsync is for directories; files are synced by their descriptors.
	Fsync: {"fsync", []field{fID}, nil, false},
	// Connect makes a socket of type Flags and connects it to the socket file.
	Connect: {"connect", []field{fID, fName, fFlags}, nil, true},
	// Watch adds the object to the gofer's inotify instance, for the events Flags; the
	// reply has the watch's number and the instance. Unwatch takes number Flags out; ID is any object.
	Watch:   {"watch", []field{fID, fName, fFlags}, []field{fID}, true},
	Unwatch: {"unwatch", []field{fID, fFlags}, nil, false},
	Release: {"release", []field{fReleased}, nil, false},
}
