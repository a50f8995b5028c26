package sandbox

import (
	"fmt"
	"io"
	"os"
	"strings"

	"bulkhead/runtime/agent"
)

// The hidden verbs of the processes that change the share of a machine in use.
const (
	AttachVerb = "attach-files"
	DetachVerb = "detach-files"
	asideName  = "bulkhead-attach"
)

// Attach adds a further container's files to a machine's share.
func Attach(r *agent.AttachRequest) error { return aside(AttachVerb, r) }

// Detach takes them away. What is not there is no error.
func Detach(r *agent.AttachRequest) error { return aside(DetachVerb, r) }

// aside has a process of its own do what spoils one: it joins the share's mounts.
func aside(verb string, r *agent.AttachRequest) error {
	config, err := memfd(r)
	if err != nil {
		return err
	}
	defer config.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	words, told, err := os.Pipe()
	if err != nil {
		return err
	}
	defer words.Close()
	p, err := start(asideName, verb, []*os.File{null, null, told, agent.ConfigFD: config}, nil)
	told.Close()
	if err != nil {
		return fmt.Errorf("start %s: %w", verb, err)
	}
	const most = 4096 // bytes
	text, _ := io.ReadAll(io.LimitReader(words, most))
	state, err := p.Wait()
	if err != nil {
		return err
	}
	if !state.Success() {
		return fmt.Errorf("%s (%v)", strings.TrimSpace(string(text)), state)
	}
	return nil
}
