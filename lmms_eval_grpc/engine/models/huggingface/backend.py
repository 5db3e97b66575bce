"""Any chat model that Hugging Face transformers loads, as a backend.

One implementation for every family: the checkpoint's own processor and chat template say what its prompts look like.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from safetensors import SafetensorError

from lmms_eval_grpc.engine.allocator import give_back_freed, keep_freed
from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.exhaustion import is_out_of_memory
from lmms_eval_grpc.engine.models.entry import Loader, LoadSettings, ModelEntry
from lmms_eval_grpc.engine.models.huggingface.ahead import ReadyCheckpoint, may_load_early, read_template
from lmms_eval_grpc.engine.models.huggingface.answering import generate_batch, score_batch
from lmms_eval_grpc.engine.models.huggingface.conversation import to_conversation
from lmms_eval_grpc.engine.models.huggingface.generation import GenerationPlan, generation_key, plan_generation
from lmms_eval_grpc.engine.models.huggingface.identity import find_folder, identify
from lmms_eval_grpc.engine.models.huggingface.likelihood import append_continuations, tokenize_continuation
from lmms_eval_grpc.engine.models.huggingface.loading import check_checkpoint, load_checkpoint, resolve_device
from lmms_eval_grpc.engine.models.huggingface.media import Media, MediaReader
from lmms_eval_grpc.engine.models.huggingface.memory import (
    BatchSizer,
    RowSize,
    is_device_lost,
    release_memory,
)
from lmms_eval_grpc.engine.models.huggingface.options import HuggingFaceOptions, plan_media
from lmms_eval_grpc.engine.models.huggingface.planning import (
    Batch,
    Planner,
    Prepared,
    PreparedRequest,
    broken,
    encode_or_isolate,
    share_key,
)
from lmms_eval_grpc.engine.models.huggingface.prefetch import Prefetcher, count_threads
from lmms_eval_grpc.engine.models.huggingface.processor import encode
from lmms_eval_grpc.engine.models.huggingface.reuse import check_reusable, read_successor, unchanged_while_loaded
from lmms_eval_grpc.engine.models.huggingface.stopping import StopVocabulary
from lmms_eval_grpc.engine.models.huggingface.weights import Blueprint, load_weights_into
from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    CannotReuse,
    Capabilities,
    GenerationRequest,
    LoglikelihoodRequest,
    Message,
    Request,
)

R = TypeVar("R", bound=Request)

_KEPT_PROMPTS = 64

_BYTES_PER_TOKEN = 4
"""Of a prompt's text in UTF-8, roughly so in every language; only sorts requests by length."""


def load(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> HuggingFaceBackend:
    """The registry's loader of every Hugging Face family."""
    return HuggingFaceBackend.load(HuggingFaceOptions.of(entry, values, settings))


def prepare(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> Loader:
    """The registry's preparer of every Hugging Face family."""
    options = HuggingFaceOptions.of(entry, values, settings)
    ready = ReadyCheckpoint.read(options)
    if not may_load_early(options, ready.folder):
        return lambda entry, values, settings: HuggingFaceBackend.load(
            HuggingFaceOptions.of(entry, values, settings), ready
        )
    early = HuggingFaceBackend.load(options, ready)

    def finish(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> HuggingFaceBackend:
        try:
            early.become(entry, values, settings)
        except (CannotReuse, EvaluationError):
            return load(entry, values, settings)
        return early

    return finish


class HuggingFaceBackend:
    """A loaded checkpoint. Made by :meth:`load`; not to be used from several threads at once."""

    def __init__(self, options: HuggingFaceOptions, model: Any, processor: Any) -> None:
        self.model = model
        if model.device.type == "cpu":
            keep_freed()
        self._sizer = BatchSizer(model, options.batch_size, options.max_batch_size)
        self._adopt(options, find_folder(options.pretrained, options.revision), processor, model.generation_config)

    def _adopt(
        self, options: HuggingFaceOptions, folder: Path, processor: Any, defaults: Any, digest: str | None = None
    ) -> None:
        """Makes the checkpoint in ``folder``, whose weights are loaded, this backend's own."""
        model = self.model
        self.options = options
        self._folder = folder
        self._template = read_template(options)
        self.worked: tuple[float, float] | None = None
        """When its first batch began and its last one ended, in seconds since the epoch; None before the first."""
        # Now and not when asked: a trainer that keeps its newest checkpoints only may soon remove the folder.
        self._identity = identify(folder, model, processor, digest) | {
            "backend": "huggingface",
            "pretrained": options.pretrained,
            "revision": getattr(model.config, "_commit_hash", None) or options.revision,
            **options.recorded,
        }
        self._blueprint = Blueprint.read(folder)
        self.processor = processor
        self._model_type = model.config.model_type
        self._media = plan_media(options, self._model_type, processor)
        # The checkpoint's sampling defaults apply to requests that sample, and would warn about those that do not.
        self._generation_defaults = defaults
        model.generation_config = transformers.GenerationConfig(
            eos_token_id=defaults.eos_token_id, bos_token_id=defaults.bos_token_id
        )
        self._plans: dict[str, GenerationPlan] = {}
        self._prompts: dict[str, str] = {}
        """Prompts by their conversation."""
        self._stopping: dict[tuple[str, ...], StopVocabulary] = {}
        """By the stop strings."""
        self._argument_keys: dict[str, str] = {}
        """By the arguments as they print."""
        self._longest: dict[tuple[str, int], tuple[float, RowSize]] = {}

    @classmethod
    def load(cls, options: HuggingFaceOptions, ready: ReadyCheckpoint | None = None) -> HuggingFaceBackend:
        """Raises :class:`EvaluationError` ``DEVICE_UNAVAILABLE``, ``MODEL_LOAD_FAILED``, ``CHECKPOINT_CHANGED`` or
        ``OUT_OF_MEMORY``."""
        device = resolve_device(options.device)
        if ready is not None and ready.holds_for(options):
            config, processor = ready.config, ready.processor
        else:
            processor = None
            config = check_checkpoint(
                options.pretrained,
                options.model_types,
                text_only=options.text_only,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
            )
        with unchanged_while_loaded(options.pretrained):
            model, processor = load_checkpoint(
                options.pretrained,
                config,
                device=device,
                dtype=options.dtype,
                device_map=options.device_map,
                attn_implementation=options.attn_implementation,
                chat_template=options.chat_template,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
                strict_weights=options.strict_weights,
                processor=processor,
            )
            return cls(options, model, processor)

    def swap(self, pretrained: str, revision: str | None = None) -> None:
        """Becomes another checkpoint of the same architecture, as if loaded afresh with the same arguments.

        Raises :class:`~lmms_eval_grpc.engine.models.huggingface.weights.CannotSwap`, and is as before, where the two
        differ in more than weights, processor and generation defaults: load the other one then. Raises
        :class:`EvaluationError` ``MODEL_LOAD_FAILED`` or ``CHECKPOINT_CHANGED`` where reading failed half-way; this
        backend is of no use then. What was learned of batch sizes stays.
        """
        options = replace(self.options, pretrained=pretrained, revision=revision)
        folder, processor, defaults = read_successor(
            options, self._blueprint, self.model.config, self.processor, self._generation_defaults
        )
        with unchanged_while_loaded(pretrained):
            try:
                load_weights_into(self.model, folder)
            except (OSError, RuntimeError, SafetensorError) as error:
                why = f"checkpoint {pretrained!r} cannot be loaded: reading its weights failed half-way ({error})"
                raise EvaluationError("MODEL_LOAD_FAILED", why) from error
            self._adopt(options, folder, processor, defaults)

    def become(self, entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> None:
        """See :class:`~lmms_eval_grpc.engine.models.protocol.Reusable`: the same checkpoint, which costs nothing, or
        another one by :meth:`swap`. Batch sizes are learned anew."""
        options = HuggingFaceOptions.of(entry, values, settings)
        folder, digest = check_reusable(options, self.options, self._folder, self._template)
        if digest == self._identity["weights_digest"]:
            self._adopt(options, folder, self.processor, self._generation_defaults, digest)
        else:
            self.swap(options.pretrained, options.revision)
        self._sizer = BatchSizer(self.model, options.batch_size, options.max_batch_size)

    def rest(self) -> None:
        """See :class:`~lmms_eval_grpc.engine.models.protocol.Reusable`."""
        device = self.model.device
        if device.type == "cpu":
            give_back_freed()
        else:
            release_memory(device)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(modalities=self._media.modalities, loglikelihood=True)

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        return self._run(requests, self._prepare)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        return self._run(requests, self._prepare_likelihood)

    def _run(self, requests: Sequence[R], prepare: Callable[[int, R], PreparedRequest]) -> Iterator[list[Answer]]:
        self._prompts = {}  # anew for each run: a template may write the date
        planner = Planner(prepare, self._encode, self._choose_size, cut_early=self._sizer.automatic)
        with Prefetcher(partial(planner.plan, requests), threads=count_threads()) as steps:
            for step in steps:
                yield from self._answer(step)

    def close(self) -> None:
        device = self.model.device
        self.model = None
        if device.type != "cpu":  # main memory is this process's to use again, and looking through all takes a while
            release_memory(device)

    # Preparation: on background threads.

    def _prepare(self, index: int, request: GenerationRequest) -> PreparedRequest:
        options = self.options
        prompt, media, cost = self._read(request.messages)
        key = share_key(self._arguments_key(request.generation), media)
        if key not in self._plans:
            self._plans[key] = plan_generation(
                request.generation,
                defaults=self._generation_defaults,
                max_new_tokens=options.max_new_tokens,
                use_cache=options.use_cache,
                special_tokens=self.processor.tokenizer.get_added_vocab(),
            )
        return PreparedRequest(index, prompt, media, request.generation, key, cost, draw=request.draw)

    def _prepare_likelihood(self, index: int, request: LoglikelihoodRequest) -> PreparedRequest:
        prompt, media, cost = self._read(request.messages)
        tokens = tokenize_continuation(self.processor.tokenizer, request.continuation)
        key = share_key("likelihood", media)
        return PreparedRequest(index, prompt, media, {}, key, cost + len(tokens), tokens)

    def _arguments_key(self, generation: Mapping[str, Any]) -> str:
        # Nearly all requests of a run have the same arguments, each a copy of its own.
        shown = repr(generation)
        key = self._argument_keys.get(shown)
        if key is None:
            if len(self._argument_keys) >= _KEPT_PROMPTS:
                self._argument_keys.clear()
            key = self._argument_keys[shown] = generation_key(generation)
        return key

    def _read(self, messages: Sequence[Message]) -> tuple[str, Media, float]:
        """The conversation as prompt and decoded media, and roughly how many tokens these are."""
        options = self.options
        reader = MediaReader(self._media, self._model_type, messages)
        conversation = to_conversation(
            messages,
            reader.read,
            system_prompt=options.system_prompt,
            reasoning_prompt=options.reasoning_prompt,
            interleave_visuals=options.interleave_visuals,
        )
        prompt, media = self._render(conversation), reader.media
        return prompt, media, len(prompt.encode()) / _BYTES_PER_TOKEN + media.tokens

    def _render(self, conversation: Sequence[Mapping[str, Any]]) -> str:
        # Choices, repeats, and the documents of many tasks come with the same words, media apart; rendering them is
        # most of the work that a short request is. A conversation here is texts and placeholders: its repr tells all.
        words = repr(conversation)
        prompt = self._prompts.get(words)
        if prompt is None:
            thinking = self.options.enable_thinking
            given = {} if thinking is None else {"enable_thinking": thinking}
            prompt = self.processor.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False, **given
            )
            if len(self._prompts) >= _KEPT_PROMPTS:
                self._prompts.clear()
            self._prompts[words] = prompt
        return prompt

    def _encode(self, chunk: Sequence[PreparedRequest]) -> Any:
        prompts, media = [request.prompt for request in chunk], [request.media for request in chunk]
        if not chunk[0].continuation:
            return encode(self.processor, prompts, media)
        inputs = encode(self.processor, prompts, media, side="right")
        pad = self.processor.tokenizer.pad_token_id
        return append_continuations(inputs, [request.continuation for request in chunk], pad)

    def _choose_size(self, longest: PreparedRequest) -> int:
        """Batch size for requests no longer than this one, by encoding the longest of about its length alone."""
        if not self._sizer.automatic:
            return self._sizer.limit
        about = (longest.key, int(longest.cost).bit_length())
        known = self._longest.get(about)
        if known is None or longest.cost > known[0]:
            try:
                inputs = self._encode([longest])
            except Exception:  # a broken request; whoever encodes its batch will say so
                return self._sizer.limit
            known = self._longest[about] = (longest.cost, self._row_size(longest, inputs))
        return self._sizer.size_for(known[1])

    def _row_size(self, request: PreparedRequest, inputs: Any) -> RowSize:
        """Of each row of ``inputs``, which ``request`` is one of."""
        rows, tokens = inputs["input_ids"].shape
        if not request.continuation:
            tokens += self._plans[request.key].max_new_tokens
        return RowSize(tokens, sum(map(_count_bytes, inputs.values())) // rows)

    # Generation: on the caller's thread.

    def _answer(self, step: Prepared) -> Iterator[list[Answer]]:
        """The step's answers; a batch that fails is halved for want of memory, and taken apart for any other reason."""
        if step.broken:
            yield step.broken
        if step.batch is None:
            return
        requests = step.batch.requests
        row = self._row_size(requests[0], step.batch.inputs)
        size = 1
        if self._sizer.allows(len(requests), row):  # else it was prepared before memory ran out
            answers, failure = self._try(step.batch, row)
            if failure is None:
                yield answers
                return
            if is_device_lost(failure):
                raise EvaluationError("DEVICE_FAILED", f"the device failed during generation: {failure}") from failure
            if is_out_of_memory(failure):
                release_memory(self.model.device)
                self._sizer.shrink(len(requests), row)
                size = self._sizer.size_for(row)
            if len(requests) == 1:
                yield [broken(requests[0].index, failure)]
                return
        else:
            size = self._sizer.size_for(row)
        while requests:
            chunk, requests = requests[:size], requests[size:]
            yield from self._answer(encode_or_isolate(chunk, self._encode))

    def _try(self, batch: Batch, row: RowSize) -> tuple[list[Answer], Exception | None]:
        """Answers or the failure, without its traceback, which would keep the failed batch's tensors alive."""
        began = time.time()
        try:
            with self._sizer.watch(len(batch.requests), row):
                if batch.requests[0].continuation:
                    return score_batch(self.model, batch), None
                plan = self._plans[batch.requests[0].key]
                hide = bool(self.options.enable_thinking)
                stopping = self._stopping.get(plan.stops)
                if stopping is None:
                    if len(self._stopping) >= _KEPT_PROMPTS:  # every request may bring stop strings of its own
                        self._stopping.clear()
                    stopping = self._stopping[plan.stops] = StopVocabulary(self.processor.tokenizer, plan.stops)
                return generate_batch(self.model, batch, plan, stopping, hide_thoughts=hide), None
        except Exception as error:
            return [], error.with_traceback(None)
        finally:
            self.worked = (self.worked[0] if self.worked else began, time.time())


def _count_bytes(value: Any) -> int:
    return int(value.nbytes) if isinstance(value, torch.Tensor) else 0
