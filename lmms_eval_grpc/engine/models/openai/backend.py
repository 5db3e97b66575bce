"""A model behind a server that speaks OpenAI's API, as a backend."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data.media.environment import decode_limit
from lmms_eval_grpc.engine.models.entry import LoadSettings, ModelEntry
from lmms_eval_grpc.engine.models.openai.client import ChatClient, Lifeline, sdk_client
from lmms_eval_grpc.engine.models.openai.concurrency import FIRST_LIMIT, AdaptiveLimit, Gate
from lmms_eval_grpc.engine.models.openai.conversation import to_api_messages
from lmms_eval_grpc.engine.models.openai.dispatch import LOOKAHEAD, Emit, answer_all, stream
from lmms_eval_grpc.engine.models.openai.failures import classify
from lmms_eval_grpc.engine.models.openai.options import RequestOptions, ServerAddress, read_address, read_requests
from lmms_eval_grpc.engine.models.openai.parameters import Dialect, Parameters, may_sample, read_parameters
from lmms_eval_grpc.engine.models.openai.payloads import PayloadGate
from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Capabilities,
    GenerationRequest,
    GenerationResponse,
    LoglikelihoodRequest,
)

logger = logging.getLogger(__name__)

BUILDERS = 4
"""Threads that encode media while requests are open."""

_CONTACT_ATTEMPTS = 3
_CONTACT_TIMEOUT = 30.0


def load(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> OpenAIBackend:
    """The registry's loader of ``openai`` and ``async_openai``. Asks the server once whether it lets us in."""
    options, address = read_requests(values), read_address(values)
    # In a thread of its own: the caller's may have an event loop already, as in a notebook.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _make_contact(address, str(values["model_version"]))).result()
    return OpenAIBackend(address, str(values["model_version"]), options)


class OpenAIBackend:
    """Asks one model of one server; how many requests it bears and which parameters it takes is remembered."""

    def __init__(
        self,
        address: ServerAddress,
        model: str,
        options: RequestOptions,
        *,
        first_limit: int = FIRST_LIMIT,
        takes_stop: bool = True,
        lifeline: Lifeline | None = None,
    ) -> None:
        self.options = options
        self.limit = AdaptiveLimit.of(options, first_limit)
        self.fingerprints: set[str] = set()
        """Builds of the model that answered, as the server names them."""
        self._address = address
        self._model = model
        self._dialect = Dialect(model, takes_stop=takes_stop)
        self._lifeline = lifeline
        self._payload_limit = decode_limit()

    @property
    def capabilities(self) -> Capabilities:
        # The API's log-probabilities are of what the model says, never of a given text behind images.
        return Capabilities(
            modalities=frozenset({"text", "image", "video", "audio"}), loglikelihood=False, may_sample=self._may_sample
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "backend": "openai",
            "model_version": self._model,
            "base_url": self._address.readable,
            "azure_version": self._address.azure_version,
            "extra_headers": sorted(self._address.headers),
            "openai_version": openai.__version__,
            **self.options.identity(),
        }

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        fetching = threading.Lock()

        def build(index: int) -> tuple[list[dict[str, Any]], Parameters] | Answer:
            try:
                with fetching:
                    request = requests[index]
                return to_api_messages(request.messages, self.options), read_parameters(
                    request.generation, self.options
                )
            except Exception as error:
                if isinstance(error, EvaluationError) and error.reason != "DOCUMENT_FAILED":
                    raise
                return Answer(index, GenerationResponse(error=f"{type(error).__name__}: {error}".strip()))

        async def work(emit: Emit) -> None:
            gate = Gate(self.limit)
            client = ChatClient(
                self._address, self._model, self.options, gate, self._dialect, self.fingerprints, self._lifeline
            )
            payloads = PayloadGate(self._payload_limit, BUILDERS)
            loop = asyncio.get_running_loop()

            async def answer(index: int) -> Answer:
                with contextlib.ExitStack() as held:
                    async with payloads.turn():
                        built = await loop.run_in_executor(builders, build, index)
                        if isinstance(built, Answer):
                            return built
                        held.enter_context(payloads.hold(built[0]))
                    return Answer(index, await client.ask(*built))

            with ThreadPoolExecutor(BUILDERS, thread_name_prefix="build") as builders:
                try:
                    await answer_all(len(requests), answer, lambda: self.limit.value + LOOKAHEAD, emit)
                finally:
                    builders.shutdown(wait=False, cancel_futures=True)
                    await client.close()

        return stream(work)

    def _may_sample(self, generation: Mapping[str, Any]) -> bool:
        return may_sample(generation, self.options, self._dialect)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        raise EvaluationError("UNSUPPORTED_TASK", "OpenAI's API gives no likelihoods of given texts")

    def close(self) -> None:
        """Nothing is open between calls."""


async def _make_contact(address: ServerAddress, model: str) -> None:
    """Fails early, and once, where every request would fail. Raises :class:`EvaluationError`."""
    client = sdk_client(address)
    try:
        for attempt in range(1, _CONTACT_ATTEMPTS + 1):
            try:
                async with asyncio.timeout(_CONTACT_TIMEOUT):
                    served = [listed.id async for listed in client.models.list()]
            except Exception as error:
                # Many gateways offer no list, or not to every key, which says nothing about the model.
                if isinstance(error, openai.APIStatusError) and error.status_code != 401:
                    return
                failure = classify(error, address)
                if failure.word not in ("UNREACHABLE", "TIMEOUT"):
                    return
                if attempt == _CONTACT_ATTEMPTS:
                    raise EvaluationError("MODEL_SERVER_UNREACHABLE", failure.message) from error
                await asyncio.sleep(attempt)
            else:
                if served and model not in served:
                    logger.warning("%s does not list %r among its models: %s", address.readable, model,
                                   ", ".join(served[:20]))  # fmt: skip
                return
    finally:
        await client.close()
