package virtio

import (
	"errors"
	"fmt"
	"sync"
)

// Serve makes a Runner of s, with a goroutine for each queue.
func Serve(s Server) Runner { return &server{Server: s} }

type server struct {
	Server
	active  *Active
	workers sync.WaitGroup
}

func (s *server) Start(a *Active) error {
	s.active = a
	for i, q := range a.Queues {
		if q == nil {
			continue
		}
		q.Release()
		s.workers.Go(func() {
			if err := s.serve(i, q); !errors.Is(err, ErrStopped) {
				a.Fail(fmt.Errorf("queue %d: %w", i, err))
			}
		})
	}
	return nil
}

// Stop wakes those that wait; those that serve finish their chain first.
func (s *server) Stop() {
	if s.active == nil {
		return
	}
	s.active.Interrupt()
	s.workers.Wait()
	s.active = nil
}

// serve answers chains until the queue is stopped or something is wrong.
func (s *server) serve(queue int, q *Queue) error {
	for {
		c, err := q.Await()
		if err != nil {
			return err
		}
		written, err := s.Serve(queue, c)
		if err != nil {
			q.Unpop(c) // so that the rings are all there is to save
			return err
		}
		if err := q.Push(c, written); err != nil {
			return err
		}
	}
}
