//go:build race

package gofertest

// cgo: the race detector comes with it, and with it the gofer can not drop
// capabilities on all threads.
const cgo = true
