package lmmseval

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Violations are all wrong fields of the request that the service named, each with its path, such as "spec.tasks[1]", and
// the value, what is wrong with it, and the remedy. None for other errors.
func Violations(err error) []*errdetails.BadRequest_FieldViolation {
	var found []*errdetails.BadRequest_FieldViolation
	for _, detail := range status.Convert(err).Details() {
		if request, ok := detail.(*errdetails.BadRequest); ok {
			found = append(found, request.GetFieldViolations()...)
		}
	}
	return found
}

// Reason is the service's stable upper-case word, such as "JOB_NOT_FOUND". Empty when the error is not its own.
func Reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "lmms-eval-grpc" {
			return info.GetReason()
		}
	}
	return ""
}

// RetryAfter is the time after which the service suggests trying again. Zero when it suggests nothing.
func RetryAfter(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// MayPass says whether what broke a call may pass by itself: a server that restarts, a lost connection.
func MayPass(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	case codes.Internal: // a broken stream. The service's own carry a reason, and would come again.
		return Reason(err) == ""
	default:
		return false
	}
}
