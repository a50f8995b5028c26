package tmpfs

import "bulkhead/sentry/vfs"

// nobody is a Context without any privilege.
type nobody struct{ vfs.Context }

var nobodyCreds = vfs.Creds{FSUID: 1000, FSGID: 1000}

func (nobody) Creds() *vfs.Creds { return &nobodyCreds }

// pattern is something to write.
var pattern = func() []byte {
	b := make([]byte, 1<<16)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}()
