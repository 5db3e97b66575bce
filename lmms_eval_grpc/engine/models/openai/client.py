"""One request to the server: sent, tried again, and read."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import openai
from openai.types.chat import ChatCompletion

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.generation_arguments import truncate
from lmms_eval_grpc.engine.models.openai.concurrency import Gate
from lmms_eval_grpc.engine.models.openai.failures import RequestFailure, authentication_failed, classify
from lmms_eval_grpc.engine.models.openai.options import RequestOptions, ServerAddress
from lmms_eval_grpc.engine.models.openai.parameters import Dialect, Parameters
from lmms_eval_grpc.engine.models.protocol import GenerationResponse

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CONNECT_TIMEOUT = 30.0
_LONGEST_PAUSE = 60.0
_LONGEST_WISH = 600.0
"""Seconds; a server that asks for a longer pause is tried again after these."""
_PATIENCE_WITH_LIMITS = 4
"""A request is told that many times more often to come later than it may fail."""
_LOST_IN_A_ROW = 8
"""Requests that could not reach the server, one after the other, before the evaluation gives up."""
_FORBIDDEN_IN_A_ROW = 8
"""Requests that the server forbade, one after the other, before that is taken for the key's fault and not theirs."""


class Lifeline(Protocol):
    """Whoever can start the server again."""

    def generation(self) -> int:
        """How often the server was started again."""

    def revive(self, generation: int) -> bool:
        """Sees to it that there is a newer server if the one of that generation died; True: there is. Blocks.

        Raises :class:`EvaluationError` when that is no use.
        """


def sdk_client(address: ServerAddress) -> openai.AsyncOpenAI:
    """The SDK's client, without its own retries and time limits. Belongs to the running event loop."""
    # One line for each request would drown the job's log.
    for library in ("httpx", "httpx2"):  # the SDK's, by its version
        logging.getLogger(library).setLevel(logging.WARNING)
    common: dict[str, Any] = {
        "api_key": address.api_key,
        "timeout": openai.Timeout(None, connect=_CONNECT_TIMEOUT),
        "max_retries": 0,
        "default_headers": dict(address.headers),
        "http_client": openai.DefaultAsyncHttpxClient(trust_env=address.trust_env),
    }
    if address.azure_version is not None:
        return openai.AsyncAzureOpenAI(azure_endpoint=address.base_url, api_version=address.azure_version, **common)
    return openai.AsyncOpenAI(base_url=address.base_url, **common)


class ChatClient:
    """Asks one model of one server. Lives in one event loop."""

    def __init__(
        self,
        address: ServerAddress,
        model: str,
        options: RequestOptions,
        gate: Gate,
        dialect: Dialect,
        fingerprints: set[str],
        lifeline: Lifeline | None = None,
    ) -> None:
        self._address = address
        self._model = model
        self._options = options
        self._gate = gate
        self._dialect = dialect
        self._fingerprints = fingerprints
        self._lifeline = lifeline
        self._sdk = sdk_client(address)
        self._lost = 0
        self._forbidden = 0

    async def ask(self, messages: list[dict[str, Any]], parameters: Parameters) -> GenerationResponse:
        """The model's answer, or the failure that remained after all attempts, as the response's ``error``.

        Raises :class:`EvaluationError` for what is wrong with all requests alike.
        """
        failures = limited = 0
        while True:
            sent = self._dialect.speak(parameters.fields)
            generation = self._lifeline.generation() if self._lifeline else 0
            failure, response = await self._attempt(messages, sent, parameters)
            if response is not None:
                return response
            assert failure is not None
            if self._dialect.learn(sent, failure):
                continue
            if failure.word == "UNREACHABLE" and self._lifeline is not None:
                revive = functools.partial(self._lifeline.revive, generation)
                if await _in_daemon_thread(revive):
                    continue  # that the server died is no fault of the request
            if failure.word == "RATE_LIMITED" and limited < _PATIENCE_WITH_LIMITS * self._options.max_retries:
                limited += 1
            else:
                failures += 1
            if not failure.transient or failures >= self._options.max_retries:
                return self._give_up(failure, failures)
            await self._pause(failure, failures + limited)

    async def close(self) -> None:
        await self._sdk.close()

    async def _attempt(
        self, messages: list[dict[str, Any]], sent: Mapping[str, Any], parameters: Parameters
    ) -> tuple[RequestFailure | None, GenerationResponse | None]:
        ticket = await self._gate.enter()
        try:
            async with asyncio.timeout(self._options.timeout):
                completion = await self._sdk.chat.completions.create(
                    model=self._model,
                    messages=messages,  # type: ignore[arg-type]
                    extra_body=dict(parameters.extra) or None,
                    **sent,
                )
            response = self._read(completion, parameters)
            # Before leaving: whoever is let in then shall find the new limit.
            self._gate.limit.succeed(ticket)
        except Exception as error:
            failure = classify(error, self._address)
            if failure.overloaded:
                self._gate.limit.retreat(ticket)
            if failure.retry_after:
                self._gate.rest(min(failure.retry_after, _LONGEST_WISH))
            return failure, None
        finally:
            await self._gate.leave()
        self._dialect.note_success(sent)
        self._lost = self._forbidden = 0
        return None, response

    def _read(self, completion: Any, parameters: Parameters) -> GenerationResponse:
        """Raises :class:`RequestFailure` for a completion that is none."""
        # The SDK does not check what it is sent.
        if not isinstance(completion, ChatCompletion) or not completion.choices or not completion.choices[0].message:
            text = str(completion)[:200]
            raise RequestFailure(
                "MALFORMED_RESPONSE", f"{self._address.readable} sent no chat completion, but {text!r}", transient=True
            )
        choice = completion.choices[0]
        if choice.finish_reason == "content_filter":
            raise RequestFailure(
                "CONTENT_FILTER", f"{self._address.readable} withheld the answer by its content filter"
            )
        self._note_fingerprint(completion.system_fingerprint)
        # A model that declines says so in a field of its own: its words are its answer.
        text = choice.message.content or choice.message.refusal or ""
        usage = completion.usage
        made, given = (usage.completion_tokens_details, usage.prompt_tokens_details) if usage else (None, None)
        return GenerationResponse(
            truncate(text, parameters.stops),
            (usage.prompt_tokens or 0) if usage else 0,
            (usage.completion_tokens or 0) if usage else 0,
            reasoning_tokens=made.reasoning_tokens if made else None,
            cached_input_tokens=given.cached_tokens if given else None,
        )

    def _note_fingerprint(self, fingerprint: str | None) -> None:
        if fingerprint and fingerprint not in self._fingerprints:
            self._fingerprints.add(fingerprint)
            known = len(self._fingerprints)
            log = logger.info if known == 1 else logger.warning
            log("%s answers as %s%s", self._address.readable, fingerprint,
                "" if known == 1 else f": the {known}th build of the model in this evaluation")  # fmt: skip

    def _give_up(self, failure: RequestFailure, attempts: int) -> GenerationResponse:
        if failure.word == "UNREACHABLE":
            self._lost += 1
            if self._lost >= _LOST_IN_A_ROW:
                raise EvaluationError("MODEL_SERVER_UNREACHABLE", failure.message)
        if failure.word == "FORBIDDEN":
            self._forbidden += 1
            if self._forbidden >= _FORBIDDEN_IN_A_ROW:
                raise authentication_failed(failure.message)
        kind = f"after {attempts} attempts" if failure.transient else "for good"
        return GenerationResponse(error=f"{failure} ({kind})")

    async def _pause(self, failure: RequestFailure, attempt: int) -> None:
        """Doubles with each attempt, varied at random, so that many who were turned away do not come back together."""
        longest = min(_LONGEST_PAUSE, self._options.retry_backoff_s * 2 ** (attempt - 1))
        await asyncio.sleep(max(longest * random.uniform(0.5, 1.0), min(failure.retry_after, _LONGEST_WISH)))


async def _in_daemon_thread(function: Callable[[], T]) -> T:
    """What ``function`` returns or raises. Unlike with the loop's own threads, a cancellation does not wait for it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            pass  # the loop has ended: nobody waits

    threading.Thread(target=run, name="revive", daemon=True).start()
    return await done
