"""A task's open questions as a sequence of requests, each built when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Generic, TypeVar, cast, overload

from lmms_eval_grpc.engine.models.protocol import Request
from lmms_eval_grpc.engine.run.log import AnswerKey
from lmms_eval_grpc.engine.tasks.messages import prompt_text
from lmms_eval_grpc.engine.tasks.task import Task

R = TypeVar("R", bound=Request)


class OpenRequests(Sequence[R], Generic[R]):
    """Requests for ``keys``; building one decodes its document's images, so none is built before it is needed.

    A backend builds them on a thread of its own while samples are scored on another. ``lock`` keeps the two from
    running the task's functions, which know nothing of threads, at the same time.
    """

    def __init__(self, task: Task, keys: Sequence[AnswerKey], lock: threading.Lock, prompts: dict[int, str]) -> None:
        self.keys = keys
        self.prompts = prompts
        """Gets the text of the prompt by document, of the requests built so far."""
        self._task = task
        self._lock = lock

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> OpenRequests[R]: ...
    def __getitem__(self, index: int | slice) -> R | OpenRequests[R]:
        """Raises DocumentError for a document that no request can be built from."""
        if isinstance(index, slice):
            return OpenRequests(self._task, self.keys[index], self._lock, self.prompts)
        key = self.keys[index]
        with self._lock:
            request = self._task.build_request(key.doc_id, key.repeat)
        if key.repeat == 0 or key.doc_id not in self.prompts:
            self.prompts[key.doc_id] = prompt_text(request.messages)
        return cast(R, request)
