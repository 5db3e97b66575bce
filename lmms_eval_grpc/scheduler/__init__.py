"""What runs when, and what is told about it.

The journal keeps every job's append-only log (durable first, visible after), the queue and the slots decide which job
starts next and on which devices, a run carries one attempt of one job from its start to its last word, and recovery
and retention look after jobs at the two ends of their lives. How a job is run is an executor's business; how it is kept
is the store's; nothing here knows gRPC.
"""

from lmms_eval_grpc.scheduler.feed import QueueChange, QueueFeed
from lmms_eval_grpc.scheduler.journal import JobLog, Journal
from lmms_eval_grpc.scheduler.queue import QueueView
from lmms_eval_grpc.scheduler.scheduler import Scheduler
from lmms_eval_grpc.scheduler.settings import SchedulerSettings
from lmms_eval_grpc.scheduler.slots import SlotView

__all__ = [
    "JobLog",
    "Journal",
    "QueueChange",
    "QueueFeed",
    "QueueView",
    "Scheduler",
    "SchedulerSettings",
    "SlotView",
]
