"""A judge to ask: one class for every provider, with lmms-eval's methods."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lmms_eval_grpc.engine.judge import parsing, prompts, transport
from lmms_eval_grpc.engine.judge.cache import CachedAnswer, cache_key, current_cache
from lmms_eval_grpc.engine.judge.endpoints import PROVIDERS
from lmms_eval_grpc.engine.judge.failures import JudgeError, note_outcome
from lmms_eval_grpc.engine.judge.pictures import image_url
from lmms_eval_grpc.engine.judge.protocol import Request, Response, ServerConfig, is_compat_parsing
from lmms_eval_grpc.engine.judge.turns import waiting
from lmms_eval_grpc.engine.judge.usage import USAGE

T = TypeVar("T")

DUMMY = "dummy"
_REASONING_MODELS = ("gpt-5", "o1", "o3", "o4")
"""They want ``max_completion_tokens`` and refuse a temperature."""


def get_server(server_name: str | None = None, config: ServerConfig | None = None) -> JudgeServer:
    """The judge of a provider: ``openai``, ``azure`` (both also with ``async_`` before them), ``local`` or ``dummy``.

    Without a name, what the environment variable ``API_TYPE`` says, else ``openai``. Raises ValueError for an unknown
    name. Neither key nor address is looked at before the first question, because tasks make their judge while they are
    loaded.
    """
    provider = (server_name or os.environ.get("API_TYPE") or "openai").lower()
    if provider != DUMMY and provider not in PROVIDERS:
        raise ValueError(f"judge provider {provider!r} is none of {', '.join([*PROVIDERS, DUMMY])}")
    return JudgeServer(provider, config or ServerConfig("gpt-4"))


class JudgeServer:
    """Asks one judge. Any number of threads may share it."""

    def __init__(self, provider: str, config: ServerConfig) -> None:
        self.provider = provider
        self.config = config

    def is_available(self) -> bool:
        """Whether key and address are there; asks nobody."""
        try:
            return self.provider == DUMMY or bool(PROVIDERS[self.provider](self.config.model_name))
        except JudgeError:
            return False

    def evaluate(self, request: Request) -> Response:
        """The judge's answer to ``request``. Raises JudgeError."""
        return self.ask(request, lambda content: None)[0]

    def evaluate_binary(
        self,
        question: str,
        answer: str,
        prediction: str,
        output_format: str = "0/1",
        custom_prompt: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Whether ``prediction`` is right, under ``result``: 1 or 0, or a truth value for the format ``yes/no``.

        Raises JudgeError, also when the judge's words are no verdict.
        """
        prompt = prompts.binary_prompt(question, answer, prediction, output_format, custom_prompt, **kwargs)
        parse = functools.partial(parsing.parse_binary, output_format=output_format, compat=is_compat_parsing())
        response, result = self.ask(self._request(prompt), parse)
        return {"result": result, **_common(response, prompt)}

    def evaluate_comparative(
        self,
        question: str,
        response1: str,
        response2: str,
        context: str | None = None,
        score_range: tuple[float, float] = (1, 10),
        custom_prompt: str | None = None,
        images: list[Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """A score of each response, under ``scores``, first that of ``response1``. Raises JudgeError."""
        prompt = prompts.comparative_prompt(
            question, response1, response2, context, score_range, custom_prompt, **kwargs
        )
        # A custom prompt may have told the judge another range.
        limits = None if custom_prompt else score_range
        parse = functools.partial(parsing.parse_comparative, score_range=limits, compat=is_compat_parsing())
        response, scores = self.ask(self._request(prompt, images), parse)
        return {"scores": scores, **_common(response, prompt)}

    def evaluate_with_rubric(
        self, question: str, prediction: str, rubric: Mapping[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        """A score for each item of ``rubric``, under ``scores``. Raises JudgeError."""
        prompt = prompts.rubric_prompt(question, prediction, rubric)
        parse = functools.partial(parsing.parse_json, compat=is_compat_parsing())
        response, scores = self.ask(self._request(prompt), parse)
        return {"scores": scores, **_common(response, prompt)}

    async def evaluate_async(self, request: Request) -> Response:
        """:meth:`evaluate`, without holding up the event loop."""
        return (await self._concurrently([functools.partial(self.evaluate, request)]))[0]

    async def evaluate_batch(self, requests: Sequence[Request]) -> list[Response]:
        """The answers to all ``requests``, in their order, as many at once as the configuration allows.

        Raises the first JudgeError once all have been tried; those answered are in the cache.
        """
        return await self._concurrently([functools.partial(self.evaluate, request) for request in requests])

    async def evaluate_binary_async(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """:meth:`evaluate_binary`, without holding up the event loop."""
        return (await self._concurrently([functools.partial(self.evaluate_binary, *args, **kwargs)]))[0]

    async def evaluate_binary_batch_async(
        self, questions: Sequence[str], answers: Sequence[str], predictions: Sequence[str], *args: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """:meth:`evaluate_binary` of many, as :meth:`evaluate_batch` does. Raises ValueError for unequal lengths."""
        rows = zip(questions, answers, predictions, strict=True)
        return await self._concurrently(
            [functools.partial(self.evaluate_binary, *row, *args, **kwargs) for row in rows]
        )

    async def evaluate_comparative_async(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """:meth:`evaluate_comparative`, without holding up the event loop."""
        return (await self._concurrently([functools.partial(self.evaluate_comparative, *args, **kwargs)]))[0]

    def _request(self, prompt: str, images: list[Any] | None = None) -> Request:
        return Request(messages=[{"role": "user", "content": prompt}], images=images, config=self.config)

    def ask(self, request: Request, parse: Callable[[str], T]) -> tuple[Response, T]:
        """The judge's answer and what ``parse`` makes of it; only answers that can be read are kept in the cache.

        ``parse`` raises JudgeError for words that are no judgement. Raises JudgeError.
        """
        config = request.config or self.config
        question = ""
        try:
            payload = _payload(request, config)
            question = cache_key(self.provider, payload)
            response, keep = self._answer(payload, config)
            parsed = parse(response.content)
        except JudgeError as error:
            note_outcome(question, error)
            raise
        keep()
        note_outcome(question, None)
        response.parsed_result = parsed
        return response, parsed

    def _answer(self, payload: dict[str, Any], config: ServerConfig) -> tuple[Response, Callable[[], None]]:
        if self.provider == DUMMY:
            return Response(DUMMY, DUMMY), _nothing
        endpoint = PROVIDERS[self.provider](config.model_name)
        cache = current_cache() if config.is_deterministic else None
        key = cache_key(endpoint.url, payload)
        known = cache.get(key) if cache else None
        if known is not None:
            USAGE.add(known.model, cached=1)
            return Response(known.content, known.model), _nothing
        with waiting(), _slots(endpoint.url, config.max_concurrent):
            reply = transport.complete(endpoint, payload, config)
        tokens = {name: reply.usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
        USAGE.add(
            reply.model,
            requests=1,
            input_tokens=tokens["prompt_tokens"] or 0,
            output_tokens=tokens["completion_tokens"] or 0,
        )

        def keep() -> None:
            if cache is not None:
                cache.put(key, CachedAnswer(reply.content, reply.model))

        return Response(reply.content, reply.model, reply.usage, reply.raw), keep

    async def _concurrently(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        if not calls:
            return []
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(min(len(calls), max(1, self.config.max_concurrent))) as pool:
            # Each in a copy of this context, so that failures reach whoever collects them here.
            running = [loop.run_in_executor(pool, contextvars.copy_context().run, call) for call in calls]
            with waiting():
                outcomes = await asyncio.gather(*running, return_exceptions=True)
        results: list[T] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
        return results


def _payload(request: Request, config: ServerConfig) -> dict[str, Any]:
    payload: dict[str, Any] = {"model": config.model_name, "messages": _messages(request, config)}
    if config.model_name.startswith(_REASONING_MODELS):
        payload["max_completion_tokens"] = config.max_tokens
    else:
        payload |= {"max_tokens": config.max_tokens, "temperature": config.temperature}
    if config.top_p is not None:
        payload["top_p"] = config.top_p
    if config.response_format == "json":
        payload["response_format"] = {"type": "json_object"}
    return payload


def _messages(request: Request, config: ServerConfig) -> list[dict[str, Any]]:
    """Copies, with the system prompt in front and the images at the end of the last user message."""
    messages = copy.deepcopy(request.messages)
    if config.system_prompt and not any(message.get("role") == "system" for message in messages):
        messages.insert(0, {"role": "system", "content": config.system_prompt})
    if request.images:
        last = next((message for message in reversed(messages) if message.get("role") == "user"), None)
        if last is None:
            raise ValueError("a judge's request with images needs a user message to put them in")
        content = last["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        items += [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in request.images]
        last["content"] = items
    return messages


def _common(response: Response, prompt: str) -> dict[str, Any]:
    return {"raw_response": response.content, "model": response.model_used, "prompt": prompt, "success": True}


def _nothing() -> None:
    """What there is to keep of an answer that came from the cache."""


_open_requests: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_open_requests_lock = threading.Lock()


def _slots(url: str, count: int) -> threading.BoundedSemaphore:
    with _open_requests_lock:
        return _open_requests.setdefault((url, count), threading.BoundedSemaphore(max(1, count)))
