//go:build !race

package gofertest

const cgo = false
