package table

// What a program finds when it starts; testdata/executor.c makes it.
const (
	data  = 0x10000000 // the pages below, from here
	page  = 4096
	pages = 64
	holes = 0x20000000 // where programs map things of their own

	private  = 0  // 16 pages, private
	common   = 16 // 16 pages, shared with every process of the program
	readOnly = 32 // 4 pages
	none     = 36 // 4 pages without any permission
	copied   = 40 // 4 private pages of a file of two and a bit: the last two are SIGBUS
	mapped   = 44 // 4 shared pages of it
	fleeting = 48 // 4 pages that threads and handlers unmap
	unmapped = 52 // nothing from here on

	slots   = 64 // values shared by all threads: descriptors, numbers, addresses
	threads = 8  // most of a program
)

// The slots that are filled when a program starts.
var filled = []string{
	"file", "dir", "pipe", "pipe", "unix", "unix", "unix", "unix", "epoll", "event", "timerfd", "inotify", "signalfd",
	"memfd", "pidfd", "tty", "tty", "inet", "inet", "inet", "netlink", "file", "dir", "mem",
}

// The last slots hold what a handler spoils the signal's frame with.
const (
	spoilMask = slots - 2
	spoilAt   = slots - 1
	results   = slots - 8 // slots below, from len(filled), take results
)

// Functions of the executor that a program can name.
const (
	handlers = 5 // the first ones are handlers of signals
	restorer = 6
	codes    = 7
)

// plain is how many of paths are ordinary names; contextAt is where AIO contexts' addresses go.
const (
	plain     = 17
	contextAt = data + 15*page
)
