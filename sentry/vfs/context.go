package vfs

import (
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// sentryContext is who the Sentry itself is.
type sentryContext struct{}

var sentryCreds = Creds{Permitted: ^uint64(0), Effective: ^uint64(0), Bounding: ^uint64(0)}

// SentryContext is the Context of the Sentry itself, which may do anything.
func SentryContext() Context { return sentryContext{} }

func (sentryContext) Creds() *Creds         { return &sentryCreds }
func (sentryContext) Memory() *memory.Space { return nil }
func (sentryContext) Limit(int) uint64      { return unix.RLIM_INFINITY }
func (sentryContext) Now() unix.Timespec    { return unix.NsecToTimespec(time.Now().UnixNano()) }
