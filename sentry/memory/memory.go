// Package memory owns the pages that applications use, and says what each of
// their addresses means.
//
// An Arena is all memory of a sandbox: reserved address space of the Sentry's
// that the platform knows, cut into pages with a count of users each. An Object
// is memory with the life of a file; a HostFile shows a file of the host's; a
// Space is one address space, mm_struct: areas (VMAs) over objects and over
// pages of its own, and the platform's mapping of both. Linux's rules are those
// of mm/mmap.c, mm/memory.c, mm/mremap.c, mm/mprotect.c and mm/madvise.c.
//
// The room knows the platform's interface and nothing of files, tasks or
// system calls.
//
// Lock order: Space.mu (of a parent before its child's), Object.mu or
// HostFile.mu, Arena.mu. Object.attach.mu, Space.storesMu and Userfault.mu are leaves. Truncating an object calls
// into spaces without a lock of the object's.
package memory

import (
	"bulkhead/sentry/platform"
)

// Addr is an address of the application's.
type Addr = platform.Addr

// PageSize is the size of a page in bytes.
const PageSize = platform.PageSize
