"""A model plug-in: a real checkpoint whose process ends in the ways that processes end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.catalog import HUGGINGFACE_ARGUMENTS
from lmms_eval_grpc.engine.models.entry import LoadSettings, ModelArgument, ModelEntry
from lmms_eval_grpc.engine.models.protocol import Answer, Backend, GenerationRequest

ENTRY = ModelEntry(
    "fragile",
    "Dies of some prompts.",
    "tests.support.fragile_model:load",
    {
        **HUGGINGFACE_ARGUMENTS,
        "deadly": ModelArgument(str, "", "Words, any of which in a prompt ends the process."),
        "signal": ModelArgument(int, 9, "How it ends: by this signal; 0: by an exception."),
        "seconds": ModelArgument(float, 0.0, "What every batch takes longer."),
    },
)


def load(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> FragileBackend:
    own = {"deadly", "signal", "seconds"}
    inner = registry.create(
        "idefics3",
        {key: value for key, value in values.items() if key not in own},
        device=settings.device,
        batch_size=settings.batch_size,
    )
    return FragileBackend(inner, values)


class FragileBackend:
    def __init__(self, inner: Backend, values: Mapping[str, Any]) -> None:
        self.inner = inner
        self.deadly = values["deadly"].split()
        self.signal = values["signal"]
        self.seconds = values["seconds"]
        self.capabilities = inner.capabilities
        self.identity = inner.identity
        self.loglikelihood = inner.loglikelihood
        self.close = inner.close

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        prompts = [item["text"] for request in requests for item in request.messages[-1]["content"]]
        if any(word in prompt.split() for word in self.deadly for prompt in prompts):
            print("this prompt is more than I can bear", flush=True)
            if not self.signal:
                raise RuntimeError("the backend broke")
            os.kill(os.getpid(), signal.Signals(self.signal))
            time.sleep(600)
        for batch in self.inner.generate(requests):
            time.sleep(self.seconds)
            yield batch
        sys.stdout.flush()
