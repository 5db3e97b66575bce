"""Metrics of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from lmms_eval_grpc.server.metrics.instruments import Instruments
from lmms_eval_grpc.server.observe import Call

OTHER = "other"
"""Label of all methods that there are none of."""


class MeasureCalls:
    """Follows calls. Keeps at hand what the labels of a kind of call stand for: looking that up is most of the cost."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._begun: dict[str, Callable[[], None]] = {}
        self._ended: dict[tuple[str, str], Callable[[float], None]] = {}
        self.open_streams: Counter[str] = Counter()
        """By method."""

    def begins(self, call: Call) -> None:
        begun = self._begun.get(call.method)
        if begun is None:
            begun = self._begun[call.method] = self._instruments.calls_started.labels(call.method).inc
        begun()
        if call.streaming:
            self.open_streams[call.method] += 1

    def ends(self, call: Call) -> None:
        key = (call.method, call.code)
        ended = self._ended.get(key)
        if ended is None:
            ended = self._ended[key] = self._make_ended(call)
        ended(call.seconds)
        if call.streaming:
            self.open_streams[call.method] -= 1
        if call.reason:
            self._instruments.refusals.labels(call.reason).inc()

    def unknown(self) -> None:
        self._instruments.calls_started.labels(OTHER).inc()
        self._instruments.calls_handled.labels(OTHER, "UNIMPLEMENTED").inc()

    def _make_ended(self, call: Call) -> Callable[[float], None]:
        count = self._instruments.calls_handled.labels(call.method, call.code).inc
        if call.streaming:
            return lambda seconds: count()
        observe = self._instruments.call_seconds.labels(call.method, call.code).observe

        def ended(seconds: float) -> None:
            count()
            observe(seconds)

        return ended
