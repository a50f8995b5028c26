package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// impatient is how long a person waits without a word.
const impatient = 2 * time.Second

// progress is one line on a terminal that says what is being done, once it
// has taken long.
type progress struct {
	to    io.Writer
	timer *time.Timer

	mu    sync.Mutex
	label string
	late  bool
	done  bool
}

func newProgress(to io.Writer, terminal bool) *progress {
	p := &progress{to: to, done: !terminal}
	p.timer = time.AfterFunc(impatient, p.show)
	return p
}

func (p *progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = true
	p.writeLocked()
}

func (p *progress) writeLocked() {
	if p.late && !p.done {
		fmt.Fprintf(p.to, "\r\x1b[K%s …", p.label)
	}
}

func (p *progress) say(label string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.label = label
	p.writeLocked()
}

// end leaves the line as it was.
func (p *progress) end() {
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.late && !p.done {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
	p.done = true
}
