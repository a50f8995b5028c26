package platform

// Patcher changes application text on behalf of a platform for which a system
// call instruction is dear, so that hot ones become jumps. It is the address
// space's owner, the Sentry's memory room, that implements it and hands it to
// the Patchable that it got from NewAddressSpace. Calls come from Thread.Run,
// between two events of the thread that made the call, while others may run.
type Patcher interface {
	// PatchText puts new over old at addr: as many bytes, at most 8, in one page.
	// It does so only if old is what stands there, and only in a private,
	// executable mapping of a file that is not writable. The page becomes a private
	// copy first, as by a debugger's write; fork inherits it. Threads may be
	// executing there: if the bytes lie in one aligned word of eight, that
	// word is changed by one store, or in the copy before it is shown; otherwise
	// the caller has made sure that no other thread runs.
	PatchText(addr Addr, old, new []byte) error

	// TrampolineArea maps size bytes of private memory, zero, readable and
	// executable, all of it within 1.9 GiB of near, shown to the AddressSpace at
	// once. The platform writes to it through the AddressSpace's own tables. Fork
	// inherits it as any private mapping, exec drops it.
	TrampolineArea(near Addr, size uint64) (Addr, error)
}

// Patchable is an AddressSpace that would rather patch call sites. Asked for
// once, when the address space is made.
type Patchable interface {
	// SetPatcher comes before any thread runs; nil turns patching off.
	SetPatcher(Patcher)
}
