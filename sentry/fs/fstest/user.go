package fstest

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// noPlatform runs nothing: the arena only needs to know where pages come from.
type noPlatform struct{ platform.Platform }

func (noPlatform) Private() bool          { return true }
func (noPlatform) AddMemory([]byte) error { return nil }

func (noPlatform) NewAddressSpace() (platform.AddressSpace, error) { return noSpace{}, nil }

type noSpace struct{ platform.AddressSpace }

func (noSpace) Release() {}

// NewSpace makes an address space in a, for a Context that maps something.
func NewSpace(t testing.TB, a *memory.Arena) *memory.Space {
	t.Helper()
	s, err := memory.NewSpace(a, noPlatform{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// NewArena makes memory that no application runs in.
func NewArena(t testing.TB) *memory.Arena {
	t.Helper()
	a, err := memory.NewArena(noPlatform{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// user is a Context with an identity and a clock of its own.
type user struct {
	creds vfs.Creds
	clock *atomic.Int64
}

func (u *user) Creds() *vfs.Creds     { return &u.creds }
func (u *user) Memory() *memory.Space { return nil }
func (u *user) Limit(int) uint64      { return unix.RLIM_INFINITY }
func (u *user) Now() unix.Timespec    { return unix.Timespec{Sec: 2_000_000_000 + u.clock.Add(1)} }

// fsCaps are those that setfsuid takes away (include/linux/capability.h, CAP_FS_MASK).
const fsCaps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_MKNOD | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_MAC_OVERRIDE

func newUser(clock *atomic.Int64, uid, gid uint32, groups ...uint32) *user {
	u := &user{clock: clock}
	u.creds = vfs.Creds{FSUID: uid, FSGID: gid, Groups: groups, Effective: ^uint64(0)}
	if uid != 0 {
		u.creds.Effective &^= fsCaps
	}
	return u
}
