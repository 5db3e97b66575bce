"""Conversations of several rounds: the task says what comes next, given what the model said so far.

All conversations of a task go on side by side: each round is one pass of the model over those that are still going.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, overload

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.protocol import Answer, Backend, GenerationRequest, GenerationResponse, Message
from lmms_eval_grpc.engine.tasks import document_values, messages
from lmms_eval_grpc.engine.tasks.task import DocumentError, Task

WINDOW = 256
"""Conversations that go on at the same time; each keeps its images in memory between rounds."""

MAX_ROUNDS = 256
"""After so many rounds a conversation whose task never ends it is an error."""

DEFAULT_AGENTIC_STEPS = 12

_STATE_KEYS = ("cash", "days_elapsed", "inventory", "mobile_data_working")


def run_episodes(
    task: Task, doc_ids: Sequence[int], backend: Backend, lock: threading.Lock, prompts: dict[int, str]
) -> Iterator[list[Answer]]:
    """One conversation per item of ``doc_ids``; yields those that came to an end, by their positions in it.

    The text of a document's first prompt is put into ``prompts``. A conversation that fails, in the model or in the
    task's functions, is an answer with an error; others go on. The task's functions run under ``lock``.
    """
    make = _AgenticEpisode if task.config.output_type == "generate_until_agentic" else _RoundsEpisode
    for start in range(0, len(doc_ids), WINDOW):
        window = range(start, min(start + WINDOW, len(doc_ids)))
        episodes: Sequence[Episode] = [make(task, index, doc_ids[index], prompts) for index in window]
        while episodes:
            asked = _RoundRequests(episodes, lock)
            with closing(_generate(backend, asked)) as batches:
                for batch in batches:
                    ended = [episodes[answer.index].hear(answer.response, lock) for answer in batch]
                    # Also a round that ends nothing is told, so that the run can be stopped after it.
                    yield [answer for answer in ended if answer is not None]
            episodes = [episode for episode in episodes if not episode.ended]


def _generate(backend: Backend, requests: Sequence[GenerationRequest]) -> Generator[list[Answer], None, None]:
    yield from backend.generate(requests)


class _RoundRequests(Sequence[GenerationRequest]):
    """The next request of each conversation, built when it is asked for."""

    def __init__(self, episodes: Sequence[Episode], lock: threading.Lock) -> None:
        self._episodes = episodes
        self._lock = lock

    def __len__(self) -> int:
        return len(self._episodes)

    @overload
    def __getitem__(self, index: int) -> GenerationRequest: ...
    @overload
    def __getitem__(self, index: slice) -> _RoundRequests: ...
    def __getitem__(self, index: int | slice) -> GenerationRequest | _RoundRequests:
        """Raises DocumentError."""
        if isinstance(index, slice):
            return _RoundRequests(self._episodes[index], self._lock)
        with self._lock:
            return self._episodes[index].request()


class Episode(ABC):
    """One conversation about one document."""

    def __init__(self, task: Task, index: int, doc_id: int, prompts: dict[int, str]) -> None:
        self.task = task
        self.doc_id = doc_id
        self.ended = False
        self.outputs: list[str] = []
        """What the model said so far, or what the task made of it."""
        self.info: Any = None
        """Whatever the task wants to remember between rounds."""
        self.round = 0
        self._index = index
        self._prompts = prompts
        self._input_tokens = self._output_tokens = 0
        self._all_cached = True
        self._next: Sequence[Message] | None = None

    def request(self) -> GenerationRequest:
        """The next request. Raises DocumentError when the first one cannot be built."""
        if self._next is None:
            try:
                self._next = self.begin()
            except Exception as error:
                raise self._failure(error) from error
            self._prompts[self.doc_id] = messages.prompt_text(self._next)
        return self.task.generation_request(self._next, f"{self.doc_id} 0 {self.round}")

    def hear(self, response: GenerationResponse, lock: threading.Lock) -> Answer | None:
        """Takes the model's answer in; the conversation's outcome if that ends it."""
        self._input_tokens += response.input_tokens
        self._output_tokens += response.output_tokens
        self._all_cached = self._all_cached and response.cached
        if response.error is not None:
            return self._end(GenerationResponse(error=response.error))
        self.round += 1
        try:
            with lock:
                self._next = self.go_on(response.text)
        except Exception as error:
            return self._end(GenerationResponse(error=self._failure(error).message))
        if self._next is not None and self.round >= MAX_ROUNDS:
            return self._end(GenerationResponse(error=f"the task did not end the conversation in {MAX_ROUNDS} rounds"))
        return None if self._next is not None else self._end(self.outcome())

    @abstractmethod
    def begin(self) -> Sequence[Message]:
        """The first round's messages."""

    @abstractmethod
    def go_on(self, output: str) -> Sequence[Message] | None:
        """The messages that follow ``output``; None ends the conversation."""

    @abstractmethod
    def outcome(self) -> GenerationResponse:
        """What is scored, after the end."""

    def document(self) -> dict[str, Any]:
        return self.task.documents.with_media(self.doc_id)

    def _end(self, response: GenerationResponse) -> Answer:
        self.ended, self._next = True, None
        counted = replace(
            response,
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            cached=self._all_cached and response.error is None,
        )
        return Answer(self._index, counted)

    def _failure(self, error: Exception) -> EvaluationError:
        reason = f"round {self.round}: {type(error).__name__}: {error}"
        return DocumentError(self.task.name, self.doc_id, f"task {self.task.name}, document {self.doc_id}, {reason}")


class _RoundsEpisode(Episode):
    """``generate_until_multi_round``: every round's output is an answer."""

    def begin(self) -> Sequence[Message]:
        return self.task.conversation(self.doc_id)

    def go_on(self, output: str) -> Sequence[Message] | None:
        self.outputs.append(output)
        document, config = self.document(), self.task.config
        told = {"round_idx": self.round, "previous_output": list(self.outputs), "previous_round_info": self.info}
        if callable(config.doc_to_messages):
            payload = document_values.doc_to_messages(config, document, **told)
            if not isinstance(payload, tuple) or len(payload) != 4:
                return None
            turns, terminal, _, self.info = payload
            return None if terminal else self.task.complete(self.doc_id, document, messages.normalise(turns))
        payload = document_values.doc_to_text_in_round(config, document, **told)
        if isinstance(payload, str):
            visuals, text = document_values.doc_to_visual(config, self.task.documents.columns, document), payload
        elif isinstance(payload, tuple) and len(payload) == 5:
            visuals, text, terminal, _, self.info = payload
            if terminal:
                return None
        else:
            return None
        turns = messages.normalise([messages.user_turn(visuals or (), text)])
        return self.task.complete(self.doc_id, document, turns)

    def outcome(self) -> GenerationResponse:
        return GenerationResponse(self.outputs[-1], rounds=tuple(self.outputs))


class _AgenticEpisode(Episode):
    """``generate_until_agentic``: the task plays the world in which the model acts; its last word is the answer."""

    def begin(self) -> Sequence[Message]:
        document, config, columns = self.document(), self.task.config, self.task.documents.columns
        self._text = str(document_values.doc_to_text(config, columns, document))
        self._visuals = document_values.doc_to_visual(config, columns, document)
        self._final = ""
        self._trace: list[dict[str, Any]] = []
        return self._messages(document)

    def request(self) -> GenerationRequest:
        request = super().request()
        generation = {key: value for key, value in request.generation.items() if key != "max_agentic_steps"}
        return replace(request, generation=generation)

    def go_on(self, output: str) -> Sequence[Message] | None:
        self.outputs.append(output)
        self._final, asked, document = output, self._text, self.document()
        payload = document_values.doc_to_text_in_round(
            self.task.config,
            document,
            previous_output=self.outputs,
            round_idx=self.round,
            previous_round_info=self.info,
        )
        if isinstance(payload, str):
            self._text = payload
        elif isinstance(payload, tuple) and len(payload) == 5:
            visuals, text, terminal, outputs, self.info = payload
            if outputs is not None:
                self.outputs = list(outputs)
                self._final = self.outputs[-1] if self.outputs else self._final
            self._trace.append(_trace_of(self.round, asked, output, bool(terminal), text, self.info))
            if terminal:
                return None
            self._text = self._text if text is None else text
            self._visuals = self._visuals if visuals is None else list(visuals)
        else:
            return None
        steps = int((self.task.config.generation_kwargs or {}).get("max_agentic_steps", DEFAULT_AGENTIC_STEPS))
        return self._messages(document) if self.round < steps else None

    def outcome(self) -> GenerationResponse:
        text = self._final
        if self.info is not None and not text.strip().startswith("{"):
            text = json.dumps(_unfinished(self.info, text, self.outputs), ensure_ascii=False)
        if self.task.evaluation.agentic_trace_mode == "full":
            text = _with_trace(text, self._trace)
        return GenerationResponse(text)

    def _messages(self, document: Mapping[str, Any]) -> Sequence[Message]:
        turns = messages.normalise([messages.user_turn(self._visuals, self._text)])
        return self.task.complete(self.doc_id, document, turns)


def _trace_of(number: int, asked: str, output: str, terminal: bool, following: Any, info: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "round_idx": number,
        "round_input": asked,
        "model_output": output,
        "terminal": terminal,
    }
    if isinstance(info, Mapping):
        record["state"] = info.get("state")
        record["tool_result"] = info.get("last_tool_result")
        record |= {key: info.get(key) for key in ("tool_calls", "valid_tool_calls", "invalid_steps")}
        record = json.loads(json.dumps(record, default=str))  # the task goes on changing its state
    if following is not None:
        record["next_input"] = following
    return record


def _unfinished(info: Any, text: str, outputs: Sequence[str]) -> dict[str, Any]:
    """What is scored of a conversation that ended without a JSON object as its answer, in lmms-eval's form."""
    known: Mapping[str, Any] = info if isinstance(info, Mapping) else {}
    calls = known.get("tool_calls", 0)
    state = known.get("state", {})
    payload = {
        "success": False,
        "error": "max_agentic_steps_reached",
        "tool_calls": float(calls),
        "valid_tool_calls": float(known.get("valid_tool_calls", calls)),
        "invalid_steps": float(known.get("invalid_steps", 0)),
        "state": state,
        "last_model_output": text,
        "trace": list(outputs),
    }
    if isinstance(state, Mapping):
        payload |= {key: state[key] for key in _STATE_KEYS if key in state}
    return payload


def _with_trace(text: str, trace: Sequence[Mapping[str, Any]]) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    return json.dumps({**value, "agentic_trace_mode": "full", "agentic_rounds": list(trace)}, ensure_ascii=False)
