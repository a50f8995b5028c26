package platform

// Patcher changes application text on behalf of a platform for which a system
// call instruction is dear, so that hot ones become jumps. It is the address
// space's owner, the Sentry's memory room, that implements it and hands it to
// the Patchable that it got from NewAddressSpace. Calls come from Thread.Run,
// between two events, while the thread that executed the call is stopped and
// others may run.
type Patcher interface {
	// PatchText puts new over old, which is at addr, at most 8 bytes in one
	// page, if old is still what stands there and the page is part of a private,
	// executable, not writable mapping of a file, or of memory from
	// TrampolinePage. The page becomes a private copy first, as by a debugger's
	// write. atomic says that the bytes lie in one aligned word of 8 and that
	// threads may be executing there: they are changed by one store of that word,
	// in a page that is already private, or in the copy before it is shown.
	PatchText(addr Addr, old, new []byte, atomic bool) error

	// TrampolinePage maps a page of private memory, readable and executable,
	// zero, no farther than 1.9 GiB from addr, and gives its address. It is
	// inherited by fork, goes with exec, and may be shown in /proc/pid/maps.
	TrampolinePage(addr Addr) (Addr, error)
}

// Patchable is an AddressSpace that would rather patch call sites.
type Patchable interface {
	// SetPatcher comes before any thread runs; nil is no patching.
	SetPatcher(Patcher)
}
