package lmmseval

import (
	"context"
	"math/rand"
	"time"
)

const (
	firstDelay    = 200 * time.Millisecond
	longestDelay  = 10 * time.Second
	longestAdvice = time.Minute
)

// reconnection waits after each break: delays double from 0.2 s to 10 s, with jitter, and start anew after a sign of life.
// The service's own advice is a lower bound.
type reconnection struct {
	// Time without any sign of life after which the last error is returned.
	giveUpAfter time.Duration

	delay       time.Duration
	brokenSince time.Time
}

func (r *reconnection) succeeded() {
	r.delay = 0
	r.brokenSince = time.Time{}
}

// broke takes note of a break. It returns err when trying again cannot help, or was in vain for too long.
func (r *reconnection) broke(err error) error {
	if r.brokenSince.IsZero() {
		r.brokenSince = time.Now()
	}
	if !MayPass(err) || time.Since(r.brokenSince) >= r.giveUpAfter {
		return err
	}
	return nil
}

// pause waits until it is time for another try after broke(err).
func (r *reconnection) pause(ctx context.Context, err error) error {
	r.delay = min(max(2*r.delay, firstDelay), longestDelay)
	jittered := r.delay/2 + time.Duration(rand.Int63n(int64(r.delay/2)))
	select {
	case <-time.After(max(jittered, min(RetryAfter(err), longestAdvice))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
