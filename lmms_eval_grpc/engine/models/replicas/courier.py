"""One call of the backend: a courier for each replica carries windows to it and answers back, until all is answered."""

from __future__ import annotations

import logging
import math
import pickle
import random
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from queue import Empty, SimpleQueue

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationResponse, Request
from lmms_eval_grpc.engine.models.replicas.messages import Answers, Done, Go, Method
from lmms_eval_grpc.engine.models.replicas.replica import Replica, ReplicaDied, end_all, pack
from lmms_eval_grpc.engine.models.replicas.work import MAX_DEATHS, WorkQueue

logger = logging.getLogger(__name__)

WINDOW_BYTES = 256 * 1024 * 1024
"""Size of a window, at most, as it is sent: decoded images, mostly. A replica holds two."""
IDLE_SECONDS = 0.5
"""After so long without an answer the caller gets an empty batch, so that it can stop."""


class Call:
    """Answers to ``requests`` from all of ``replicas``."""

    def __init__(
        self,
        method: Method,
        requests: Sequence[Request],
        replicas: Sequence[Replica],
        *,
        batch_size: int | None,
        seed: str | None,
        patience: float,
    ) -> None:
        self.method: Method = method
        self.requests = requests
        self.seed = seed
        self.work = WorkQueue(len(requests), len(replicas), batch_size)
        self.results: SimpleQueue[list[Answer] | BaseException] = SimpleQueue()
        self._replicas = replicas
        self._patience = patience
        self._couriers = [_Courier(replica, self) for replica in replicas]
        self._threads = [
            threading.Thread(target=courier.run, name=f"courier-{replica.number}", daemon=True)
            for replica, courier in zip(replicas, self._couriers, strict=True)
        ]
        self._running = len(replicas)
        self._lock = threading.Lock()

    def batches(self) -> Generator[list[Answer], None, None]:
        """Yields answers as they come. Closing it, or an error, ends the replicas' processes; else they stay."""
        left = len(self.requests)
        if not left:
            return
        for thread in self._threads:
            thread.start()
        try:
            while left:
                try:
                    result = self.results.get(timeout=IDLE_SECONDS)
                except Empty:
                    result = []
                if isinstance(result, BaseException):
                    raise result
                left -= len(result)
                yield result
                self._end_silent()
        finally:
            self.work.stop()
            if left:
                for replica in self._replicas:
                    replica.kill()
            for thread in self._threads:
                thread.join()
            if left:
                end_all(self._replicas, 0.0)
                for replica in self._replicas:
                    replica.revive()

    def _end_silent(self) -> None:
        """Ends replicas that hang: that say nothing for too long, while others were able to answer."""
        now = time.monotonic()
        for courier in self._couriers:
            since = courier.silent_since
            if since is None or now - since < self._patience:
                continue
            if any(other.answered_at > since for other in self._couriers if other is not courier):
                courier.silent_since = None
                courier.replica.abandon(
                    f"answered nothing for {now - since:.0f} s while others did, so it was taken to hang and ended"
                )

    def seed_for(self, first: int) -> int | None:
        """The random seed of the window that begins with request ``first``, whichever replica gets it."""
        return None if self.seed is None else random.Random(f"{self.seed}/{first}").getrandbits(63)

    def leave(self, last_words: str) -> None:
        """A courier has nothing more to do; the last one says so if there are requests left."""
        with self._lock:
            self._running -= 1
            if not (self._running or self.work.finished or self.work.stopped):
                self.results.put(
                    EvaluationError(
                        "REPLICAS_DIED", f"none of the model's {len(self._replicas)} replicas is left: {last_words}"
                    )
                )


class _Courier:
    """Serves one replica during one call, on a thread of its own."""

    def __init__(self, replica: Replica, call: Call) -> None:
        self.replica = replica
        self.silent_since: float | None = None
        """When the replica, which has requests, said something last, or got them; None: it has none."""
        self.answered_at = -math.inf
        """When it answered a request last."""
        self._call = call
        self._work = call.work
        self._flights: deque[set[int]] = deque()
        """Open requests of the windows that the replica has, the oldest first; it works on that one."""

    def run(self) -> None:
        last_words = ""
        try:
            while not (self.replica.given_up or self._work.stopped or self._work.finished):
                try:
                    if self._make_ready():
                        self._deliver()
                except ReplicaDied:
                    last_words = self._handle_death()
                except EvaluationError as error:
                    if self.replica.loaded is not None:
                        raise
                    # A model that was loaded before cannot be loaded again: the others go on.
                    self.replica.bury()
                    self.replica.given_up = True
                    last_words = f"replica {self.replica.number} cannot be started again: {error.message}"
                    logger.error("%s", last_words)
        except BaseException as error:
            self._call.results.put(error)
        finally:
            self._call.leave(last_words)

    def _make_ready(self) -> bool:
        """Starts a replica that is not there. False when everything is answered before it has loaded its model: the
        next call finds it loaded then."""
        if not self.replica.running:
            self.replica.start()
        while self.replica.loaded is None:
            if self._work.stopped or self._work.finished:
                return False
            if self.replica.heard(IDLE_SECONDS):
                self.replica.wait_until_loaded()
        return True

    def _deliver(self) -> None:
        """Returns when everything is answered."""
        while True:
            # One window is worked on, a second one waits in the replica.
            indices = self._work.take(wait=not self._flights) if len(self._flights) < 2 else None
            if indices is not None:
                if not self._flights and self.replica.heard():  # it can have nothing to say but its end
                    self._work.give_back(indices)
                    raise ReplicaDied
                self._send(indices)
            elif self._flights:
                self._hear()
            else:
                return

    def _send(self, indices: Sequence[int]) -> None:
        flight: set[int] = set(indices)
        self._flights.append(flight)
        size = sent = 0
        for position, index in enumerate(indices):
            if size >= WINDOW_BYTES:
                flight.difference_update(indices[position:])
                self._work.give_back(indices[position:])
                break
            try:
                packed = pack(index, self._call.requests[index])
            except Exception as error:
                if isinstance(error, EvaluationError) and error.reason != "DOCUMENT_FAILED":
                    raise
                flight.discard(index)
                self._publish([Answer(index, GenerationResponse(error=f"{type(error).__name__}: {error}".strip()))])
                continue
            self.replica.send(packed)
            size += len(packed)
            sent += 1
            while self.replica.heard():
                self._hear()
            if self._work.stopped:
                return
        if sent:
            self.replica.send(pickle.dumps(Go(self._call.method, self._call.seed_for(indices[0]))))
            if len(self._flights) == 1:
                self.silent_since = time.monotonic()
        else:
            self._flights.remove(flight)

    def _hear(self) -> None:
        message = self.replica.receive()
        self.silent_since = time.monotonic()
        if isinstance(message, Answers):
            flight = self._flights[0]
            answers = [answer for answer in message.answers if answer.index in flight]
            flight.difference_update(answer.index for answer in answers)
            self.replica.note_fruit()
            self.answered_at = time.monotonic()
            self._publish(answers)
        elif isinstance(message, Done):
            forgotten = self._flights.popleft()
            self.silent_since = self.silent_since if self._flights else None
            error = "the model backend gave no answer to this request"
            self._publish([Answer(index, GenerationResponse(error=error)) for index in sorted(forgotten)])

    def _publish(self, answers: list[Answer]) -> None:
        if answers:
            self._call.results.put(answers)
            self._work.note_answered(len(answers))

    def _handle_death(self) -> str:
        """Deals the dead replica's requests out again and returns how it ended."""
        self.silent_since = None
        try:
            while self.replica.running and self._flights:  # what it said before its end
                self._hear()
        except (ReplicaDied, EvaluationError):
            pass
        cause = self.replica.bury()
        how = f"replica {self.replica.number} {cause}"
        current, *waiting = [sorted(flight) for flight in self._flights] or [[]]
        self._flights.clear()
        if self._work.stopped:
            return how
        again = "it is not started again" if self.replica.given_up else "it is started again"
        open_requests = len(current) + sum(map(len, waiting))
        logger.warning("%s; requests that are asked again: %d; %s", how, open_requests, again)
        blamed = self._work.redistribute(current, [index for indices in waiting for index in indices])
        error = f"{MAX_DEATHS} replicas of the model ended while they had this request; the last one {cause}"
        self._publish([Answer(index, GenerationResponse(error=error)) for index in blamed])
        tail = self.replica.tail()
        return f"{how}; the end of its output:\n{tail}" if tail else how
