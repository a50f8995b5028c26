// Package net opens sockets: it knows the families, and which of them the
// container has.
package net

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/net/socket"
	local "bulkhead/sentry/net/unix"
)

// Namespace is a network namespace: what sockets can see of each other.
type Namespace struct {
	Unix *local.Names
}

// NewNamespace makes one without sockets.
func NewNamespace() *Namespace { return &Namespace{Unix: local.NewNames()} }

// Open is socket(2); typ has no flags. Without a network stack the Internet's
// families are EAFNOSUPPORT, as on a kernel built without them.
func (ns *Namespace) Open(c socket.Caller, family, typ, protocol int) (socket.Socket, error) {
	switch family {
	case unix.AF_UNIX:
		e, err := local.New(c, ns.Unix, typ, protocol)
		if err != nil {
			return nil, err
		}
		return e, nil
	}
	return nil, unix.EAFNOSUPPORT
}

// Pair is socketpair(2).
func (ns *Namespace) Pair(c socket.Caller, family, typ, protocol int) (a, b socket.Socket, err error) {
	switch family {
	case unix.AF_UNIX:
		return pair(local.Pair(c, ns.Unix, typ, protocol))
	}
	return nil, nil, unix.EAFNOSUPPORT
}

// pair keeps nil pointers from becoming sockets.
func pair(a, b *local.Endpoint, err error) (socket.Socket, socket.Socket, error) {
	if err != nil {
		return nil, nil, err
	}
	return a, b, nil
}
