package report

import (
	"fmt"
	"io"
)

// labelPrefix is that of our labels on Kubernetes' nodes.
const labelPrefix = "bulkhead.dev/"

// WriteLabels writes what schedulers choose nodes by, as labels of a Kubernetes node, one
// KEY=VALUE a line: the host's class, the platform that the Sentry has here (kvm or ptrace,
// none without either), and whether a machine can stand. deploy/base's RuntimeClasses ask
// for them.
func (r *Report) WriteLabels(w io.Writer) error {
	can := map[string]bool{}
	for _, wall := range r.Walls {
		can[wall.Name] = wall.Yes
	}
	sentry := "none"
	switch {
	case can["sentry-kvm"]:
		sentry = "kvm"
	case can["sentry-ptrace"]:
		sentry = "ptrace"
	}
	_, err := fmt.Fprintf(w, "%[1]sclass=%[2]s\n%[1]ssentry=%[3]s\n%[1]svm=%[4]t\n", labelPrefix, r.Class, sentry, can["vm"])
	return err
}
