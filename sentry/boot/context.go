package boot

import "bulkhead/sentry/vfs"

// userContext is the Sentry acting for a user.
type userContext struct {
	vfs.Context
	creds *vfs.Creds
}

func (c userContext) Creds() *vfs.Creds { return c.creds }
