// Submits a checkpoint, watches it to its end and prints its metrics.
//
//	submit-and-watch ADDRESS CHECKPOINT TASK [MODEL]
//
// Exit codes: 0 completed, 1 the job failed or was cancelled, 2 wrong usage or request, 4 the server did not do it.
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	lmmseval "github.com/lmms-eval-grpc/lmms-eval-grpc/clients/go"
	pb "github.com/lmms-eval-grpc/lmms-eval-grpc/clients/go/gen/lmms_eval_grpc/v1"
)

func main() {
	if len(os.Args) != 4 && len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: submit-and-watch ADDRESS CHECKPOINT TASK [MODEL]")
		os.Exit(2)
	}
	model := "huggingface"
	if len(os.Args) == 5 {
		model = os.Args[4]
	}
	completed, err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3], model)
	violations := lmmseval.Violations(err)
	for _, violation := range violations {
		fmt.Fprintf(os.Stderr, "%s: %s\n", violation.GetField(), violation.GetDescription())
	}
	if err != nil && len(violations) == 0 {
		fmt.Fprintln(os.Stderr, err)
	}
	switch {
	case status.Code(err) == codes.InvalidArgument:
		os.Exit(2)
	case err != nil:
		os.Exit(4)
	case !completed:
		os.Exit(1)
	}
}

func run(ctx context.Context, address, checkpoint, task, model string) (completed bool, err error) {
	client, err := lmmseval.Connect(address)
	if err != nil {
		return false, err
	}
	defer client.Close()

	arguments, err := structpb.NewStruct(map[string]any{"pretrained": checkpoint})
	if err != nil {
		return false, err
	}
	job, err := client.Submit(ctx, &pb.EvaluateRequest{
		Spec:   &pb.EvaluationSpec{Model: model, ModelArgs: arguments, Tasks: []string{task}},
		Labels: map[string]string{"client": "go"},
	}, 5*time.Minute)
	if err != nil {
		return false, err
	}
	fmt.Println("job", job.GetJobId())

	options := lmmseval.WatchOptions{
		OnReconnect: func(err error) { fmt.Fprintln(os.Stderr, "trying again:", err) },
	}
	if seconds, err := strconv.Atoi(os.Getenv("HEARTBEAT_SECONDS")); err == nil {
		options.Heartbeat = time.Duration(seconds) * time.Second
	}
	if err := client.Watch(ctx, job.GetJobId(), options, report); err != nil {
		return false, err
	}

	response, err := client.GetJob(ctx, &pb.GetJobRequest{JobId: job.GetJobId()})
	if err != nil {
		return false, err
	}
	job = response.GetJob()
	if job.GetEvaluationResult() == nil {
		if failure := job.GetError(); failure != nil {
			fmt.Fprintf(os.Stderr, "%s: %s\n", failure.GetReason(), failure.GetMessage())
		} else {
			fmt.Fprintln(os.Stderr, "CANCELLED:", job.GetCancelReason())
		}
		return false, nil
	}
	for _, result := range job.GetEvaluationResult().GetTaskResults() {
		for _, metric := range result.GetMetrics() {
			fmt.Println(result.GetTask(), describe(metric))
		}
	}
	return true, nil
}

func report(event *pb.JobEvent) error {
	fmt.Printf("[%d] ", event.GetSequence())
	switch what := event.GetEvent().(type) {
	case *pb.JobEvent_StateChange:
		fmt.Println(strings.TrimPrefix(what.StateChange.GetState().String(), "JOB_STATE_"))
	case *pb.JobEvent_TaskResult:
		fmt.Println(what.TaskResult.GetTask(), "is done")
	case *pb.JobEvent_Progress:
		stage := strings.ToLower(strings.TrimPrefix(what.Progress.GetStage().String(), "JOB_STAGE_"))
		fmt.Printf("%s %d/%d\n", stage, what.Progress.GetSamplesDone(), what.Progress.GetSamplesTotal())
	default:
		fmt.Println("something that this client does not know")
	}
	return nil
}

func describe(metric *pb.Metric) string {
	value := "undefined"
	if !math.IsNaN(metric.GetValue()) {
		value = fmt.Sprintf("%.4f", metric.GetValue())
	}
	shown := fmt.Sprintf("%s,%s = %s", metric.GetName(), metric.GetFilter(), value)
	if interval := metric.GetConfidenceInterval(); interval != nil {
		shown += fmt.Sprintf(" [%.4f, %.4f] (%.0f %%)", interval.GetLower(), interval.GetUpper(), 100*interval.GetLevel())
	}
	return shown
}
