package container

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// ExitCrash is the exit code of a container that a bug of ours ended (EX_SOFTWARE
// of sysexits.h): the sandbox process gives it, and Crash tells it from a
// program's own exit with that number.
const ExitCrash = 70

// exitGo is how the Go runtime ends a process on what cannot be recovered from.
const exitGo = 2

// Crash says how the Sentry died, if code is the exit code of one that did. Its
// log with the stack is kept beyond the container, in a file of its own where it
// would have gone with the container's directory.
func (c *Container) Crash(code int) error {
	if code != ExitCrash && code != exitGo || c.State.Log == "" {
		return nil
	}
	log, err := tail(c.State.Log)
	if err != nil {
		return nil
	}
	for _, what := range []string{"guest", "gofer"} {
		if line := endLine(log, what); line != "" {
			return fmt.Errorf("the %s ended, and the container with it: %s", what, line)
		}
	}
	why := crashLine(log)
	if why == "" {
		return nil
	}
	kept := c.State.Log
	if kept == c.dir.Log() {
		f, err := os.CreateTemp("", "bulkhead-crash-"+c.State.ID+"-*.log")
		if err != nil {
			return fmt.Errorf("the sandbox ended by a bug in Bulkhead: %s (keep its log: %v)", why, err)
		}
		defer f.Close()
		f.Write(log)
		kept = f.Name()
	}
	return fmt.Errorf("the sandbox ended by a bug in Bulkhead: %s (the stack is in %s; please report it)", why, kept)
}

// crashMarks begin the line that tells a crash: our own log's, and the Go runtime's.
var crashMarks = []string{"level=ERROR msg=panic ", `"level":"ERROR","msg":"panic"`, "panic: ", "fatal error: ", "SIGSEGV: ", "SIGABRT: ", "SIGBUS: "}

// crashLine is the last line of a log that tells of a crash, without the stack.
func crashLine(log []byte) string {
	var found []byte
	for line := range bytes.Lines(log) {
		for _, mark := range crashMarks {
			if i := bytes.Index(line, []byte(mark)); i == 0 || i > 0 && mark[0] != 'p' && mark[0] != 'f' && mark[0] != 'S' {
				found = line[i:]
			}
		}
	}
	for _, stack := range []string{" stack=", `,"stack":`} {
		found, _, _ = bytes.Cut(found, []byte(stack))
	}
	if _, value, ours := bytes.Cut(found, []byte(" value=")); ours {
		found = append([]byte("panic: "), value...)
	}
	return string(bytes.TrimSpace(found[:min(len(found), 300)]))
}

// endLine is how a machine's guest, or a Sentry's gofer, ended, of the last line that tells of it.
func endLine(log []byte, what string) (found string) {
	for line := range bytes.Lines(log) {
		for _, mark := range []string{`level=ERROR msg="` + what + ` ended" `, `"level":"ERROR","msg":"` + what + ` ended",`} {
			if _, rest, ok := bytes.Cut(line, []byte(mark)); ok {
				found = string(bytes.TrimSpace(rest))
			}
		}
	}
	return found[:min(len(found), 1000)]
}

// tail is the end of a log.
func tail(path string) ([]byte, error) {
	const limit = 1 << 20 // bytes
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, size-limit), io.SeekStart)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
