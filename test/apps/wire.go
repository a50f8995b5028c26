package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// wire is a cable between two network namespaces, of which the programs are in one; nil: they
// have what they have.
type wire struct{ here, there string }

func newWire() (*wire, error) {
	name := strings.ToLower(rand.Text()[:8])
	w := &wire{"apps-" + name, "apps-beyond-" + name}
	for _, line := range []string{
		"netns add HERE", "netns add THERE", "-n HERE link set lo up", "-n THERE link set lo up",
		"-n THERE link add eth0 type veth peer name eth0 netns HERE",
		"-n THERE link set eth0 up", "-n HERE link set eth0 up",
		"-n THERE address add 10.78.0.1/24 dev eth0", "-n HERE address add 10.78.0.2/24 dev eth0",
		"-n THERE address add fd78::1/64 dev eth0 nodad", "-n HERE address add fd78::2/64 dev eth0 nodad",
		"-n HERE route add default via 10.78.0.1", "-n HERE route add default via fd78::1",
	} {
		line = strings.NewReplacer("THERE", w.there, "HERE", w.here).Replace(line)
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("ip %s: %w: %s", line, err, out), w.remove())
		}
	}
	return w, nil
}

// natively and inside are the words before a command, and before those of bulkhead do, that
// bring it there.
func (w *wire) natively() []string {
	if w == nil {
		return nil
	}
	return []string{"ip", "netns", "exec", w.here}
}

func (w *wire) inside() []string {
	if w == nil {
		return nil
	}
	return []string{"--netns=" + w.here}
}

func (w *wire) remove() error {
	if w == nil {
		return nil
	}
	return errors.Join(exec.Command("ip", "netns", "delete", w.here).Run(), exec.Command("ip", "netns", "delete", w.there).Run())
}
