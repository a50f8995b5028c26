package main

import (
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// markdown is the table of results, with where and when above it.
func markdown(results []result) string {
	var b strings.Builder
	commit, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	host, err := exec.Command("uname", "-srm").Output()
	if err != nil {
		host = []byte("unknown")
	}
	fmt.Fprintf(&b, "# The software that people run\n\n`make test-apps`, %s, commit %s, host %s.\n\n",
		time.Now().Format("2 January 2006"), strings.TrimSpace(string(commit)), strings.TrimSpace(string(host)))
	width := len("program")
	for _, r := range results {
		width = max(width, len(r.app))
	}
	fmt.Fprintf(&b, "| %-*s | platform | result  | seconds | native | |\n|%s|----------|---------|--------:|-------:|-|\n", width, "program", strings.Repeat("-", width+2))
	count := map[string]int{}
	for _, r := range results {
		count[r.verdict]++
		fmt.Fprintf(&b, "| %-*s | %-8s | %-7s | %7.1f | %6.1f | %s |\n", width, r.app, r.platform, r.verdict, r.seconds, r.native, r.detail)
	}
	fmt.Fprintf(&b, "\n%d passed, %d failed, %d skipped\n", count["passed"], count["failed"], count["skipped"])
	return b.String()
}
