package gofer_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer"
	"bulkhead/sentry/gofer/gofertest"
	"bulkhead/sentry/gofer/wire"
)

// BenchmarkCall is a burst: requests that follow each other at once.
func BenchmarkCall(b *testing.B) {
	c := gofertest.Dial(b, gofer.Config{Root: gofer.Mount{Source: tree(b)}})
	for b.Loop() {
		call(b, c, wire.Request{Op: wire.GetAttr})
	}
}

// BenchmarkCallAfterPause finds the gofer asleep.
func BenchmarkCallAfterPause(b *testing.B) {
	c := gofertest.Dial(b, gofer.Config{Root: gofer.Mount{Source: tree(b)}})
	var in time.Duration
	n := 0
	for b.Loop() {
		time.Sleep(300 * time.Microsecond)
		start := time.Now()
		call(b, c, wire.Request{Op: wire.GetAttr})
		in += time.Since(start)
		n++
	}
	b.ReportMetric(float64(in.Nanoseconds())/float64(n), "ns/call")
}

// BenchmarkStart is from the start of the process to its first answer.
func BenchmarkStart(b *testing.B) {
	root := tree(b)
	for b.Loop() {
		c := gofertest.Dial(b, gofer.Config{Root: gofer.Mount{Source: root}})
		call(b, c, wire.Request{Op: wire.Hello})
		c.Close()
	}
}

func BenchmarkOpen(b *testing.B) {
	c := gofertest.Dial(b, gofer.Config{Root: gofer.Mount{Source: tree(b)}})
	r := call(b, c, wire.Request{Op: wire.Walk, Names: []string{"a", "b", "c"}})
	for b.Loop() {
		unix.Close(call(b, c, wire.Request{Op: wire.Open, ID: r.Nodes[2].ID, Name: "file"}).FD)
	}
}

func BenchmarkReadDir(b *testing.B) {
	c := gofertest.Dial(b, gofer.Config{Root: gofer.Mount{Source: "/usr/bin", ReadOnly: true}})
	n := 0
	for b.Loop() {
		n += len(call(b, c, wire.Request{Op: wire.ReadDir}).Entries)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/entry")
}
