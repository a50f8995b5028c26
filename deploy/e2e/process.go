package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// process is one of the cluster's, with its log beside it.
type process struct {
	name string
	args []string
	env  []string
	log  string

	// mu guards what follows, which changes where one is started again.
	mu       sync.Mutex
	cmd      *exec.Cmd
	gone     chan struct{}
	restarts bool // it is started again when it ends, as a system's manager does (kubelet gives up where containerd is not up yet)
}

// start starts a program; it writes to DIR/NAME.log.
func (c *cluster) start(name string, env []string, args ...string) (*process, error) {
	p := &process{name: name, args: args, env: env, log: filepath.Join(c.dir, name+".log")}
	if err := p.start(); err != nil {
		return nil, err
	}
	c.processes = append(c.processes, p)
	return p, nil
}

func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, gone := exec.Command(p.args[0], p.args[1:]...), make(chan struct{})
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.mu.Lock()
	p.cmd, p.gone = cmd, gone
	p.mu.Unlock()
	go func() {
		_ = cmd.Wait()
		close(gone)
		p.mu.Lock()
		again := p.restarts
		p.mu.Unlock()
		if again {
			time.Sleep(time.Second)
			if err := p.start(); err != nil {
				progress("%v", err)
			}
		}
	}()
	return nil
}

// now is the process as it runs, or last ran.
func (p *process) now() (*exec.Cmd, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd, p.gone
}

// stop ends it for good, by force if it takes longer than half a minute.
func (p *process) stop() {
	p.mu.Lock()
	p.restarts = false
	p.mu.Unlock()
	cmd, gone := p.now()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	cmd, gone := p.now()
	_ = cmd.Process.Kill()
	<-gone
}

// until asks f again and again until it gives no error, or time is up, which the last error tells.
func until(what string, limit time.Duration, f func() error) error {
	end := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if fatal := new(hopeless); errors.As(err, &fatal) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("in vain waited %v for %s: %w", limit, what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// hopeless is an error that no waiting mends.
type hopeless struct{ error }

// answers says whether p runs and f gives no error yet.
func (p *process) answers(f func() error) error {
	return until(p.name+" answers", 2*time.Minute, func() error {
		cmd, gone := p.now()
		select {
		case <-gone:
			p.mu.Lock()
			defer p.mu.Unlock()
			if !p.restarts {
				return &hopeless{fmt.Errorf("it ended: %v; the end of its log:\n%s", cmd.ProcessState, tail(p.log, 2000))}
			}
			return fmt.Errorf("it ended: %v", cmd.ProcessState)
		default:
			return f()
		}
	})
}

func tail(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-n):])
}
