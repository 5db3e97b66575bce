"""What a model backend is to the engine: messages in, text and token counts out, batch by batch.

Light: imports no model library, so that tasks, scoring and the run loop can name these types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lmms_eval_grpc.engine.models.sampling import samples

Message = Mapping[str, Any]
"""``{"role": "user" | "system" | "assistant", "content": [item, …]}`` where an item is
``{"type": "text", "text": str}`` or ``{"type": "image" | "video" | "audio", "url": PIL image | path | bytes | …}``:
lmms-eval's chat protocol."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt for a chat model."""

    messages: Sequence[Message]
    generation: Mapping[str, Any]
    """Resolved generation arguments in lmms-eval's names: ``until`` (list of str), ``max_new_tokens``, ``temperature``,
    ``do_sample``, ``top_p``, ``num_beams``, …. Never mutated by a backend."""
    draw: str = ""
    """Names the random numbers of a sampled answer, where a backend can keep requests apart: requests of one name and
    prompt are answered alike, in whatever batch or run they are asked. Empty: the backend's own choice."""


@dataclass(frozen=True, slots=True)
class LoglikelihoodRequest:
    """One text whose likelihood is asked for, as the beginning of the answer to a conversation."""

    messages: Sequence[Message]
    continuation: str
    """Not empty."""


Request = GenerationRequest | LoglikelihoodRequest


@dataclass(frozen=True, slots=True)
class GenerationResponse:
    """What the model said to one request, or why it said nothing."""

    text: str = ""
    """Empty for a likelihood."""
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None
    """Set when this request failed alone (a corrupt image, a refused prompt). ``text`` is then no answer."""
    log_probability: float | None = None
    """Of a :class:`LoglikelihoodRequest`: natural logarithm, summed over the continuation's tokens."""
    is_greedy: bool | None = None
    """Of a :class:`LoglikelihoodRequest`: whether greedy decoding would give exactly the continuation."""
    rounds: tuple[str, ...] | None = None
    """Of a conversation of several rounds: what the model said in each; ``text`` is then the last. Set by the run."""
    cached: bool = False
    """Whether it was kept from an earlier question, and the model was not asked. Set by the run."""
    reasoning_tokens: int | None = None
    """Of ``output_tokens``, those spent on thinking that ``text`` does not show; None: not told."""
    cached_input_tokens: int | None = None
    """Of ``input_tokens``, those that a server had worked on before; None: not told."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response and the position of its request in the sequence that was given to :meth:`Backend.generate`."""

    index: int
    response: GenerationResponse


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded backend can do."""

    modalities: frozenset[str] = field(default_factory=lambda: frozenset({"text"}))
    """Subset of ``text``, ``image``, ``video``, ``audio``."""
    loglikelihood: bool = False
    """Whether :meth:`Backend.loglikelihood` works."""
    loglikelihood_is_loss: bool = False
    """Whether ``log_probability`` is a loss, as many older backends return it: the smaller, the likelier."""
    visual_cot: bool = False
    """Whether the model can draw while it thinks, which tasks of output type ``generate_visual_cot`` want.

    Their requests come to :meth:`Backend.generate` like others, with the task's settings for drawing among the
    generation arguments (``visual_cot: true``, ``bagel_interleaved: {…}``, …). The answer is text. Tasks that score
    the drawings read it as the JSON object ``{"text": str, "images": [path, …]}``.
    """
    may_sample: Callable[[Mapping[str, Any]], bool] = samples
    """Whether a request with these generation arguments may be answered differently the next time. Such answers are
    not kept for other evaluations. Told anew after each batch: a backend may learn it from a server's refusals. Of a
    backend that may run as replicas it can be pickled."""


class CannotReuse(Exception):
    """A loaded model cannot become the one that is asked for; it is as it was."""


class Backend(Protocol):
    """A loaded model. One that can become another checkpoint is :class:`Reusable` as well."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the answers depend on: checkpoint path or id, a digest of its files, dtype, class, library versions.

        ``image_backend`` names what prepares pixels (``pil`` or ``torchvision``), if anything does.
        """

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        """Answers every request exactly once, in whatever order is fastest, yielding each batch as soon as it is done.

        A batch may be empty: a backend that waits for others yields one now and then, so that its caller can stop.

        ``requests`` may build a request only when it is asked for by index: a backend fetches each once, holds a
        bounded number at a time, and makes an exception raised by a fetch that request's ``error``. It may fetch on
        threads of its own, and again what was lost with a process that died.

        The caller may stop iterating and close the iterator at any time (cancellation); nothing is left running then.
        Raises :class:`~lmms_eval_grpc.engine.api.EvaluationError` for what is wrong with all requests alike.
        """

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        """As :meth:`generate`, with ``log_probability`` and ``is_greedy`` of each continuation as responses.

        Only for backends whose capabilities say so.
        """

    def close(self) -> None:
        """Frees the model's memory."""


@runtime_checkable
class Reusable(Protocol):
    """A backend that serves one evaluation after another."""

    def become(self, entry: Any, values: Mapping[str, Any], settings: Any) -> None:
        """Becomes what the entry's loader would make of these arguments (those of a
        :data:`~lmms_eval_grpc.engine.models.entry.Loader`), with nothing left of what it was.

        Raises :class:`CannotReuse` where that would be another model, and
        :class:`~lmms_eval_grpc.engine.api.EvaluationError` where it failed half-way; the backend is of no use then.
        """

    def rest(self) -> None:
        """Gives back what memory it does not need while it waits to become another."""
