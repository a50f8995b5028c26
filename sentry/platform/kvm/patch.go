package kvm

import "bulkhead/sentry/platform"

type sites struct{}

func (t *thread) outOfTrampoline(c *platform.Context) {}
