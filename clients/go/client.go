// Package lmmseval is the client of the lmms-eval-grpc evaluation service: what a generator cannot know, how to submit
// once and how to watch without a gap. Everything else is a call of the generated client that a Client embeds.
package lmmseval

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/lmms-eval-grpc/lmms-eval-grpc/clients/go/gen/lmms_eval_grpc/v1"
)

// Client is the generated client and its connection.
type Client struct {
	pb.EvaluationServiceClient
	connection *grpc.ClientConn
}

// Connect makes a client of the server at address, "host:port". Without options that say otherwise there is no TLS. A dead
// connection is noticed by pings.
func Connect(address string, options ...grpc.DialOption) (*Client, error) {
	ours := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)), // the results of a job may be larger than 4 MiB
		grpc.WithMaxHeaderListSize(64 << 10),                           // errors are explained in the trailers
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// A restarted server is found again soon.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstDelay, Multiplier: 2, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	connection, err := grpc.NewClient(address, append(ours, options...)...)
	if err != nil {
		return nil, err
	}
	return &Client{pb.NewEvaluationServiceClient(connection), connection}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.connection.Close() }

// Submit queues an evaluation, once however often the call has to be repeated: every try carries the same request_id, which
// is drawn when the request has none. It tries for giveUpAfter.
func (c *Client) Submit(ctx context.Context, request *pb.EvaluateRequest, giveUpAfter time.Duration) (*pb.Job, error) {
	if request.RequestId == "" {
		request.RequestId = newUUID()
	}
	again := reconnection{giveUpAfter: giveUpAfter}
	for {
		response, err := c.evaluateOnce(ctx, request)
		if err == nil {
			return response.GetJob(), nil
		}
		if err := again.broke(err); err != nil {
			return nil, err
		}
		if err := again.pause(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (c *Client) evaluateOnce(ctx context.Context, request *pb.EvaluateRequest) (*pb.EvaluateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return c.Evaluate(ctx, request)
}

// WatchOptions say how a job is watched. The zero value will do.
type WatchOptions struct {
	// Only events after this sequence. 0: all of them.
	AfterSequence int64
	// The server says something at least this often, 1 s to 5 min; after three times as much silence the connection counts
	// as lost. 0: 15 s.
	Heartbeat time.Duration
	// Time of trying without a sign of life after which the last error is returned. 0: 5 minutes.
	GiveUpAfter time.Duration
	// Told each time that the connection broke, before the next try. May be nil.
	OnReconnect func(error)
}

// Watch follows a job to its end: it hands over the events, each once and in order, across restarts of the server and lost
// connections, and stops with the first error that onEvent returns.
func (c *Client) Watch(ctx context.Context, jobID string, options WatchOptions, onEvent func(*pb.JobEvent) error) error {
	if options.Heartbeat == 0 {
		options.Heartbeat = 15 * time.Second
	}
	if options.GiveUpAfter == 0 {
		options.GiveUpAfter = 5 * time.Minute
	}
	w := watch{
		client: c, jobID: jobID, heartbeat: options.Heartbeat, after: options.AfterSequence, onEvent: onEvent,
		again: reconnection{giveUpAfter: options.GiveUpAfter},
	}
	for {
		err := w.once(ctx)
		if w.ended || w.stopped != nil {
			return w.stopped
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := w.again.broke(err); err != nil {
			return err
		}
		if options.OnReconnect != nil {
			options.OnReconnect(err)
		}
		if err := w.again.pause(ctx, err); err != nil {
			return err
		}
	}
}

type watch struct {
	client    *Client
	jobID     string
	heartbeat time.Duration
	after     int64
	onEvent   func(*pb.JobEvent) error
	again     reconnection
	ended     bool
	stopped   error // by onEvent
}

// once makes one call, and ends it when it has been silent for too long.
func (w *watch) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(3*w.heartbeat, cancel)
	defer silence.Stop()
	stream, err := w.client.WatchJob(ctx, &pb.WatchJobRequest{
		JobId: w.jobID, AfterSequence: &w.after, HeartbeatInterval: durationpb.New(w.heartbeat),
	})
	if err != nil {
		return err
	}
	for spoke := false; ; spoke = true {
		response, err := stream.Recv()
		silence.Stop() // runs only while we wait for the server, not while the caller works on an event
		if errors.Is(err, io.EOF) {
			w.ended = !spoke // nothing said at all: the job had ended, at or before AfterSequence
			return status.Error(codes.Unavailable, "the server ended the watch before the job had ended")
		}
		if err != nil {
			return err
		}
		w.again.succeeded()
		if event := response.GetEvent(); event.GetSequence() > w.after {
			w.after = event.GetSequence()
			w.stopped = w.onEvent(event)
			w.ended = Terminal(event.GetStateChange().GetState())
			if w.ended || w.stopped != nil {
				return nil
			}
		}
		silence.Reset(3 * w.heartbeat)
	}
}

// Terminal says whether a job in this state stays in it. A state that this client does not know is not an end.
func Terminal(state pb.JobState) bool {
	switch state {
	case pb.JobState_JOB_STATE_COMPLETED, pb.JobState_JOB_STATE_FAILED, pb.JobState_JOB_STATE_CANCELLED:
		return true
	}
	return false
}

// newUUID draws a UUID of version 4.
func newUUID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // the system has no randomness
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
