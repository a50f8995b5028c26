package shim

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Topics of containerd's (core/runtime/events.go).
const (
	topicCreate      = "/tasks/create"
	topicStart       = "/tasks/start"
	topicOOM         = "/tasks/oom"
	topicExit        = "/tasks/exit"
	topicDelete      = "/tasks/delete"
	topicExecAdded   = "/tasks/exec-added"
	topicExecStarted = "/tasks/exec-started"
	topicPaused      = "/tasks/paused"
	topicResumed     = "/tasks/resumed"
)

const (
	waitingEvents    = 2048            // beyond, the oldest is lost
	publishPatience  = 5 * time.Second // for one try
	shutdownPatience = 2 * time.Second
)

// retries are the times between two tries: containerd may be about to start again.
var retries = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 5 * time.Second, 10 * time.Second}

// publisher tells containerd of events in their order, however long it is away.
type publisher struct {
	namespace string
	log       *slog.Logger
	queue     chan queued
	stop      chan struct{} // no more will come
	sent      chan struct{} // closed when all is out after stop
	dial      func(context.Context) (net.Conn, error)
}

// queued is an event that waits.
type queued struct {
	*types.Envelope
	over chan struct{} // closed when it was sent, or is lost
}

func newPublisher(address, namespace string) *publisher {
	p := &publisher{
		namespace: namespace, log: slog.New(slog.DiscardHandler),
		queue: make(chan queued, waitingEvents), stop: make(chan struct{}), sent: make(chan struct{}),
		dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", strings.TrimPrefix(address, socketScheme))
		},
	}
	if address == "" { // containerd before 1.3, or a person
		p.dial = nil
	}
	go p.run()
	return p
}

// publish never waits. Who makes events as fast as somebody likes can: for over, which is
// closed when this one waits no longer.
func (p *publisher) publish(topic string, event proto.Message) (over <-chan struct{}) {
	done := make(chan struct{})
	if p.dial == nil {
		close(done)
		return done
	}
	body, err := anypb.New(event)
	if err != nil {
		p.log.Error("event", "topic", topic, "err", err)
		close(done)
		return done
	}
	body.TypeUrl = strings.TrimPrefix(body.TypeUrl, "type.googleapis.com/") // as containerd's typeurl has it
	e := queued{&types.Envelope{Timestamp: timestamppb.Now(), Namespace: p.namespace, Topic: topic, Event: body}, done}
	for {
		select {
		case p.queue <- e:
			return done
		default:
		}
		select {
		case lost := <-p.queue:
			close(lost.over)
			p.log.Warn("an event is lost: containerd has not heard any for long", "topic", lost.Topic)
		default:
		}
	}
}

func (p *publisher) run() {
	defer close(p.sent)
	var client *ttrpc.Client
	defer func() {
		if client != nil {
			client.Close()
		}
	}()
	for {
		var e queued
		select {
		case e = <-p.queue:
		case <-p.stop:
			select {
			case e = <-p.queue: // what is left
			default:
				return
			}
		}
		for try := 0; ; try++ {
			err := p.send(&client, e.Envelope)
			if err == nil {
				break
			}
			if try == len(retries) {
				p.log.Warn("an event is lost", "topic", e.Topic, "err", err)
				break
			}
			select {
			case <-time.After(retries[try]):
			case <-p.stop:
				if try > 0 {
					return // our end comes before containerd's return
				}
			}
		}
		close(e.over)
	}
}

func (p *publisher) send(client **ttrpc.Client, e *types.Envelope) error {
	ctx, cancel := context.WithTimeout(context.Background(), publishPatience)
	defer cancel()
	if *client == nil {
		conn, err := p.dial(ctx)
		if err != nil {
			return err
		}
		*client = ttrpc.NewClient(conn)
	}
	_, err := eventsapi.NewTTRPCEventsClient(*client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
	if err != nil {
		(*client).Close()
		*client = nil
	}
	return err
}

// close sends what waits, unless ctx ends before.
func (p *publisher) close(ctx context.Context) {
	close(p.stop)
	select {
	case <-p.sent:
	case <-ctx.Done():
	}
}
