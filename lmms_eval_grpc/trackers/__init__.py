"""Experiment trackers as places for scores: TensorBoard, Weights & Biases, MLflow, each at the step of its checkpoint.

What lives here: what a tracker is called (``names``), one small adapter per tracker, each importing its package only
when it is opened, and logging that never fails its caller (``logs``). The worker uses them for jobs (``track``), the
hooks in ``integrations`` for the trackers that a training run has open. What does not: where scores come from.
"""

from lmms_eval_grpc.trackers.logs import ScoreLog, ScoreLogs, metric_key, score_name
from lmms_eval_grpc.trackers.names import TrackerName, TrackerNameError, parse_tracker
from lmms_eval_grpc.trackers.opening import RunInfo, open_log

__all__ = [
    "RunInfo",
    "ScoreLog",
    "ScoreLogs",
    "TrackerName",
    "TrackerNameError",
    "metric_key",
    "open_log",
    "parse_tracker",
    "score_name",
]
