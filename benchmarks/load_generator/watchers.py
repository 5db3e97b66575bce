"""Many watchers in one client process: raw messages are kept with the times of their arrival, and read afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from lmms_eval_grpc.v1.evaluation_service_pb2 import WatchJobRequest, WatchJobResponse

STREAMS_PER_CHANNEL = 500
"""A server takes a thousand on one connection."""
_WATCH_JOB = "/lmms_eval_grpc.v1.EvaluationService/WatchJob"


@dataclass(slots=True)
class Told:
    """What the watchers of one process were told."""

    watchers: int = 0
    messages: int = 0
    bytes: int = 0
    histories: dict[str, dict[tuple[int, ...], int]] = field(default_factory=dict)
    """By job: the states that watchers were told, in order, and how many were told just these."""
    out_of_order: int = 0
    """Watchers whose sequences did not only grow."""
    broken: int = 0
    """Watchers whose streams ended with an error, or not at all."""
    progress: list[tuple[int, float]] = field(default_factory=list)
    """Of every progress: when the worker reported it (nanoseconds of the shared clock), and seconds until it came."""
    states: list[float] = field(default_factory=list)
    """Of every change of state since the watcher came: seconds from the event's time until it came."""


class _Watcher:
    def __init__(self, job_id: str, call: Any) -> None:
        self.job_id = job_id
        self.received: list[tuple[int, bytes]] = []
        self.ended_well = False
        self.expected = 0
        self.waiting: tuple[int, asyncio.Event] | None = None
        self._call = call

    async def follow(self) -> None:
        """Keeps whatever comes until the stream ends."""
        call, received = self._call, self.received
        while (data := await call.read()) is not grpc.aio.EOF:
            received.append((time.monotonic_ns(), data))
            if self.waiting is not None and len(received) >= self.waiting[0]:
                self.waiting[1].set()
                self.waiting = None
        self.ended_well = await call.code() is grpc.StatusCode.OK

    async def has(self, count: int) -> None:
        """Waits until so many messages have come."""
        if len(self.received) < count:
            event = asyncio.Event()
            self.waiting = (count, event)
            await event.wait()


async def _told(watchers: Sequence[_Watcher], counts: Sequence[int], patience: float) -> int:
    """Waits until each has its count of messages, at most ``patience`` seconds. Returns how many have."""
    if not watchers:
        return 0
    waiting = [asyncio.create_task(watcher.has(count)) for watcher, count in zip(watchers, counts, strict=True)]
    done, late = await asyncio.wait(waiting, timeout=patience)
    for task in late:
        task.cancel()
    return len(done)


class Watchers:
    """The object of a client process."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channels: list[grpc.aio.Channel] = []
        self._watchers: list[_Watcher] = []
        self._following: list[asyncio.Task[None]] = []
        self._came = 0.0

    async def open(self, job_ids: Sequence[str], count: int, patience: float, events: int = 1) -> int:
        """Adds ``count`` watchers, in turn of each of these jobs and from its first event on. Returns how many have
        been told ``events`` of them within ``patience`` seconds."""
        new: list[_Watcher] = []
        for number in range(count):
            if number % STREAMS_PER_CHANNEL == 0:
                options = [("grpc.use_local_subchannel_pool", 1)]
                self._channels.append(grpc.aio.insecure_channel(self._address, options=options))
                watch = self._channels[-1].unary_stream(
                    _WATCH_JOB, request_serializer=WatchJobRequest.SerializeToString, response_deserializer=None
                )
            job_id = job_ids[number % len(job_ids)]
            request = WatchJobRequest(job_id=job_id, after_sequence=0)
            request.heartbeat_interval.FromSeconds(300)
            new.append(_Watcher(job_id, watch(request)))
        self._watchers += new
        self._following += [asyncio.create_task(watcher.follow()) for watcher in new]
        told = await _told(new, [events] * count, patience)
        self._came = time.time()
        return told

    async def expect(self) -> None:
        """From now on, the next message is the one that :meth:`arrivals` is about."""
        for watcher in self._watchers:
            watcher.expected = len(watcher.received)

    async def arrivals(self, patience: float) -> list[tuple[int, float]]:
        """Of the message that was expected, a progress: when its worker reported it, by the shared clock, and seconds
        until it came; one of each watcher that has it within ``patience`` seconds."""
        await _told(self._watchers, [watcher.expected + 1 for watcher in self._watchers], patience)
        found = []
        for watcher in self._watchers:
            if len(watcher.received) > watcher.expected:
                arrived, data = watcher.received[watcher.expected]
                reported = WatchJobResponse.FromString(data).event.progress.bytes_done
                found.append((reported, (arrived - reported) / 1e9))
        return found

    async def finish(self, patience: float) -> Told:
        """Waits until every stream has ended, at most ``patience`` seconds, and says what all were told."""
        await asyncio.wait(self._following, timeout=patience)
        told = Told(watchers=len(self._watchers))
        for watcher in self._watchers:
            self._read(watcher, told)
        return told

    async def leave(self) -> None:
        """Breaks off every stream."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        self._channels, self._watchers, self._following = [], [], []

    async def close(self) -> None:
        """Ends everything."""
        await self.leave()

    def _read(self, watcher: _Watcher, told: Told) -> None:
        wall_minus_clock = time.time() - time.monotonic()
        sequence, in_order = 0, True
        states: list[int] = []
        for arrived, data in watcher.received:
            told.messages += 1
            told.bytes += len(data)
            event = WatchJobResponse.FromString(data).event
            if not event.sequence:
                continue  # A heartbeat.
            in_order &= event.sequence > sequence
            sequence = event.sequence
            if event.HasField("progress"):
                reported = event.progress.bytes_done
                told.progress.append((reported, (arrived - reported) / 1e9))
            elif event.HasField("state_change"):
                states.append(event.state_change.state)
                happened = event.event_time.ToNanoseconds() / 1e9
                if happened > self._came:
                    told.states.append(arrived / 1e9 + wall_minus_clock - happened)
        told.out_of_order += not in_order
        told.broken += not watcher.ended_well
        histories = told.histories.setdefault(watcher.job_id, {})
        history = tuple(states)
        histories[history] = histories.get(history, 0) + 1
