package socket

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// What a socket keeps of who sent or connected is in the container's first
// namespaces. It is translated where a task tells it and where one is told.

// PID is c's process in the first pid namespace.
func PID(c Caller) int32 {
	if t, ok := c.(*kernel.Task); ok {
		return t.Group().PID()
	}
	return c.PID()
}

// Shown is u as c's namespaces have it (net/core/sock.c, cred_to_ucred).
func Shown(c Caller, u *unix.Ucred) *unix.Ucred {
	if u == nil {
		return nil
	}
	v := *u
	user := c.Creds().User
	if user != nil {
		v.Uid, v.Gid = user.ShowUID(u.Uid), user.ShowGID(u.Gid)
	}
	if t, ok := c.(*kernel.Task); ok && u.Pid != 0 && t.PIDNamespace().Parent() != nil {
		v.Pid = 0
		if g := t.Kernel().Group(u.Pid); g != nil {
			v.Pid = t.Number(g.ID())
		}
	}
	return &v
}

// meant is what c means by u, and whether its process, user and group are its own.
func meant(c Caller, u *unix.Ucred) (*unix.Ucred, error) {
	v := *u
	k := c.Creds()
	var okUID, okGID bool
	v.Uid, okUID = k.User.UIDs().In(u.Uid)
	v.Gid, okGID = k.User.GIDs().In(u.Gid)
	if !okUID || !okGID {
		return nil, unix.EINVAL
	}
	t, ok := c.(*kernel.Task)
	pid := u.Pid == c.PID() || ok && k.HasIn(t.PIDNamespace().Owner(), unix.CAP_SYS_ADMIN) || !ok && k.Has(unix.CAP_SYS_ADMIN)
	uid := v.Uid == k.UID || v.Uid == k.EUID || v.Uid == k.SUID || k.HasHere(unix.CAP_SETUID)
	gid := v.Gid == k.GID || v.Gid == k.EGID || v.Gid == k.SGID || k.HasHere(unix.CAP_SETGID)
	if !pid || !uid || !gid {
		return nil, unix.EPERM
	}
	if ok {
		g := t.FindGroup(u.Pid)
		if g == nil {
			return nil, unix.ESRCH
		}
		v.Pid = g.PID()
	}
	return &v, nil
}

// Capable says whether c may do something to the network that it is in
// (ns_capable of the network namespace's owner).
func Capable(c vfs.Context, capability int) bool {
	if t, ok := c.(*kernel.Task); ok {
		if n := t.Namespaces(); n != nil {
			return c.Creds().HasIn(n.Net.Owner(), capability)
		}
	}
	return c.Creds().Has(capability)
}
