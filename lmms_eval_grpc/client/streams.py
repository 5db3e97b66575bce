"""Streams that outlive their connection: where each resumes, and when to try again. No I/O, shared by both clients.

A stream is followed by a loop that lives in each transport: open a call with `request()`, hand every message to
`accept()`, stop when `ended`; when the call breaks, wait for `Reconnection.delay_after()` seconds and open the next.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from lmms_eval_grpc.client.dictionaries import has_ended
from lmms_eval_grpc.client.errors import ServerUnavailable, raise_typed, status_of
from lmms_eval_grpc.v1 import evaluation_service_pb2 as service
from lmms_eval_grpc.v1 import job_pb2 as messages

RequestT = TypeVar("RequestT", covariant=True)
ResponseT = TypeVar("ResponseT", contravariant=True)
ItemT = TypeVar("ItemT", covariant=True)

_log = logging.getLogger("lmms_eval_grpc.client")

_FIRST_DELAY = 0.2
_LONGEST_DELAY = 10.0
_LONGEST_ADVICE = 60.0
"""Seconds; a server's RetryInfo is honoured up to this."""


class Resume(Protocol[RequestT, ResponseT, ItemT]):
    """What one stream has delivered so far, and how to ask for the rest."""

    @property
    def ended(self) -> bool:
        """Whether the last message was the stream's last."""

    def request(self) -> RequestT:
        """The request for what has not been delivered yet."""

    def accept(self, response: ResponseT) -> Sequence[ItemT]:
        """Takes a message; returns what of it is new."""

    def finish(self) -> None:
        """Takes note that the server ended the call with OK."""


class JobWatch:
    """WatchJob: events by their sequence, each once, until the terminal one."""

    def __init__(self, job_id: str, after_sequence: int, heartbeat_interval: float) -> None:
        self._job_id = job_id
        self._after = after_sequence
        self._heartbeat = _duration(heartbeat_interval)
        self._spoke = False
        self.ended = False

    def request(self) -> service.WatchJobRequest:
        self._spoke = False
        return service.WatchJobRequest(
            job_id=self._job_id, after_sequence=self._after, heartbeat_interval=self._heartbeat
        )

    def accept(self, response: service.WatchJobResponse) -> Sequence[messages.JobEvent]:
        self._spoke = True
        event = response.event
        if not response.HasField("event") or event.sequence <= self._after:
            return ()
        self._after = event.sequence
        self.ended = event.HasField("state_change") and has_ended(event.state_change.state)
        return (event,)

    def finish(self) -> None:
        # Nothing said at all: the job had ended, at or before `after_sequence`. Otherwise OK without the terminal event
        # is a server that stopped early; what is missing comes with the next call.
        self.ended = not self._spoke


class QueueWatch:
    """WatchQueue: a snapshot at each connection, then changes. Never ends."""

    def __init__(self, heartbeat_interval: float) -> None:
        self._heartbeat = _duration(heartbeat_interval)
        self.ended = False

    def request(self) -> service.WatchQueueRequest:
        return service.WatchQueueRequest(heartbeat_interval=self._heartbeat)

    def accept(self, response: service.WatchQueueResponse) -> Sequence[service.QueueSnapshot | service.QueueChange]:
        if response.HasField("snapshot"):
            return (response.snapshot,)
        return (response.change,) if response.HasField("change") else ()

    def finish(self) -> None:
        pass


class Samples:
    """StreamSamples: records from a cursor on."""

    def __init__(self, job_id: str, task: str | None, follow: bool) -> None:
        self._request = service.StreamSamplesRequest(job_id=job_id, task=task or "", follow=follow)
        self.ended = False

    def request(self) -> service.StreamSamplesRequest:
        return self._request

    def accept(self, response: service.StreamSamplesResponse) -> Sequence[messages.SampleRecord]:
        self._request.after_cursor = response.next_cursor
        return response.samples

    def finish(self) -> None:
        self.ended = True


class Logs:
    """StreamLogs: text from an offset in bytes on."""

    def __init__(self, job_id: str, follow: bool, after_offset: int) -> None:
        self._request = service.StreamLogsRequest(job_id=job_id, follow=follow, after_offset=after_offset)
        self.ended = False

    def request(self) -> service.StreamLogsRequest:
        return self._request

    def accept(self, response: service.StreamLogsResponse) -> Sequence[str]:
        self._request.after_offset = response.end_offset
        return (response.text,) if response.text else ()

    def finish(self) -> None:
        self.ended = True


class Reconnection:
    """Decides after each break whether to try again, and when.

    Delays double from 0.2 s to 10 s, with jitter, and start anew after the first message of a connection. A server's
    own advice (RetryInfo) is a lower bound.
    """

    def __init__(
        self,
        what: str,
        *,
        address: str,
        give_up_after: float | None,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """
        Args:
            what: What is being done, for messages: "watching job …".
            address: The server's, for messages.
            give_up_after: Seconds of trying without any message after which ServerUnavailable is raised. None: never.
            timeout: Seconds for the whole undertaking, after which TimeoutError is raised. None: no bound.
        """
        self._what = what
        self._address = address
        self._give_up_after = give_up_after
        self._timeout = timeout
        self._clock = clock
        self._jitter = jitter
        self._deadline = None if timeout is None else clock() + timeout
        self._broken_since: float | None = None
        self._failures = 0

    def time_left(self, at_most: float | None = None) -> float | None:
        """Seconds until the undertaking's deadline, and no more than `at_most`. None: no bound."""
        if self._deadline is None:
            return at_most
        left = max(self._deadline - self._clock(), 0.001)
        return left if at_most is None else min(left, at_most)

    def succeeded(self) -> None:
        """Takes note of a sign of life."""
        if self._failures:
            _log.info("%s: connected again", self._what)
        self._failures = 0
        self._broken_since = None

    def delay_after(self, error: grpc.RpcError | None) -> float:
        """Seconds to wait before the next call. None stands for a call that ended with OK, but too early.

        Raises:
            EvalServiceError: trying again cannot help, or `give_up_after` seconds of trying were in vain.
            TimeoutError: the undertaking's deadline has passed.
        """
        now = self._clock()
        advice = 0.0
        if error is not None:
            if not may_pass(error):
                raise_typed(error, address=self._address)
            advice = min(status_of(error)[2].retry_after or 0.0, _LONGEST_ADVICE)
        if self._deadline is not None and now >= self._deadline:
            raise TimeoutError(f"{self._what} took longer than {self._timeout:g} s") from error
        self._broken_since = now if self._broken_since is None else self._broken_since
        if self._give_up_after is not None and now - self._broken_since >= self._give_up_after:
            message = (
                f"{self._what}: nothing heard from the server at {self._address} for {self._give_up_after:g} s;"
                " see that it runs, or raise reconnect_timeout"
            )
            raise ServerUnavailable(message, code="UNAVAILABLE") from error
        if self._failures == 0:
            _log.warning("%s: the connection broke (%s), trying again", self._what, _cause(error))
        longest = min(_FIRST_DELAY * 2**self._failures, _LONGEST_DELAY)
        self._failures = min(self._failures + 1, 32)
        delay = max(self._jitter(longest / 2, longest), advice)
        return delay if self._deadline is None else min(delay, max(self._deadline - now, 0.0))


def may_pass(error: grpc.RpcError) -> bool:
    """Whether what broke a call like this may pass by itself."""
    code, text, details = status_of(error)
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
            return True
        case grpc.StatusCode.INTERNAL:
            # A reset connection. The service's own internal errors carry a reason, and would come again.
            return not details.reason
        case grpc.StatusCode.UNKNOWN:
            return not details.reason and "Stream removed" in text
    return False


def _cause(error: grpc.RpcError | None) -> str:
    if error is None:
        return "the server ended it early"
    code, text, _ = status_of(error)
    return f"{code.name}: {text}"


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
