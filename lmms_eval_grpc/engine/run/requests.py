"""A task's open questions as a sequence of requests, each built when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import overload

from lmms_eval_grpc.engine.models.protocol import GenerationRequest
from lmms_eval_grpc.engine.run.log import AnswerKey
from lmms_eval_grpc.engine.tasks.messages import prompt_text
from lmms_eval_grpc.engine.tasks.task import Task


class OpenRequests(Sequence[GenerationRequest]):
    """Requests for ``keys``; building one decodes its document's images, so none is built before it is needed.

    A backend builds them on a thread of its own while samples are scored on another. ``lock`` keeps the two from
    running the task's functions, which know nothing of threads, at the same time.
    """

    def __init__(self, task: Task, keys: Sequence[AnswerKey], lock: threading.Lock) -> None:
        self.keys = keys
        self.prompts: dict[int, str] = {}
        """Text of the prompt by document, from the requests built so far."""
        self._task = task
        self._lock = lock

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> GenerationRequest: ...
    @overload
    def __getitem__(self, index: slice) -> OpenRequests: ...
    def __getitem__(self, index: int | slice) -> GenerationRequest | OpenRequests:
        """Raises DocumentError for a document that no request can be built from."""
        if isinstance(index, slice):
            return OpenRequests(self._task, self.keys[index], self._lock)
        doc_id = self.keys[index].doc_id
        with self._lock:
            request = self._task.build_request(doc_id)
        self.prompts[doc_id] = prompt_text(request.messages)
        return request
