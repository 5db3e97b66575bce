"""Any vision-language checkpoint that Hugging Face transformers loads, as a backend.

One implementation for every family: the checkpoint's own processor and chat template say what its prompts look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers.utils import cached_file

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.data.media.images import fit_pixels, load_image
from lmms_eval_grpc.engine.models.entry import LoadSettings, ModelEntry
from lmms_eval_grpc.engine.models.huggingface.conversation import to_conversation
from lmms_eval_grpc.engine.models.huggingface.generation import GenerationPlan, plan_generation
from lmms_eval_grpc.engine.models.huggingface.identity import digest_checkpoint, digest_template
from lmms_eval_grpc.engine.models.huggingface.likelihood import (
    append_continuations,
    score_continuations,
    tokenize_continuation,
)
from lmms_eval_grpc.engine.models.huggingface.loading import check_checkpoint, load_checkpoint, resolve_device
from lmms_eval_grpc.engine.models.huggingface.memory import BatchSizer, RowSize, is_out_of_memory, release_memory
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
from lmms_eval_grpc.engine.models.huggingface.processor import encode, set_pixel_bounds
from lmms_eval_grpc.engine.models.huggingface.stopping import StopStrings, truncate
from lmms_eval_grpc.engine.models.protocol import (
    Answer,
    Capabilities,
    GenerationRequest,
    GenerationResponse,
    LoglikelihoodRequest,
    Message,
    Request,
)

R = TypeVar("R", bound=Request)

_PIXELS_PER_TOKEN = 28 * 28
"""Pixels that become one token in a typical model; only sorts requests by length."""
_BYTES_PER_TOKEN = 4
"""The same of a prompt's text, in UTF-8; roughly so in every language."""


@dataclass(frozen=True, slots=True)
class HuggingFaceOptions:
    """The arguments of the registry, checked, and where and how to run."""

    pretrained: str
    device: str
    revision: str | None = None
    dtype: str = "auto"
    device_map: str | Mapping[str, Any] | None = None
    attn_implementation: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    system_prompt: str | None = None
    max_new_tokens: int = 4096
    use_cache: bool = True
    strict_weights: bool = True
    trust_remote_code: bool = False
    batch_size: int | None = None
    max_batch_size: int | None = None
    model_types: tuple[str, ...] = ()


def load(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> HuggingFaceBackend:
    """The registry's loader of every Hugging Face family."""
    return HuggingFaceBackend.load(
        HuggingFaceOptions(
            **values,
            device=settings.device,
            batch_size=settings.batch_size,
            max_batch_size=settings.max_batch_size,
            model_types=entry.model_types,
        )
    )


class HuggingFaceBackend:
    """A loaded checkpoint. Made by :meth:`load`; not to be used from several threads at once."""

    def __init__(self, options: HuggingFaceOptions, model: Any, processor: Any) -> None:
        self.options = options
        # Now and not when asked: a trainer that keeps its newest checkpoints only may soon remove the folder.
        self._identity = _identify(options, model, processor)
        self.model = model
        self.processor = processor
        self._bounds_are_native = set_pixel_bounds(processor, options.min_pixels, options.max_pixels)
        self._sizer = BatchSizer(model, options.batch_size, options.max_batch_size)
        # The checkpoint's sampling defaults apply to requests that sample, and would warn about those that do not.
        self._generation_defaults = model.generation_config
        model.generation_config = transformers.GenerationConfig(
            eos_token_id=self._generation_defaults.eos_token_id, bos_token_id=self._generation_defaults.bos_token_id
        )
        self._plans: dict[str, GenerationPlan] = {}
        self._longest: dict[tuple[str, int], tuple[float, RowSize]] = {}

    @classmethod
    def load(cls, options: HuggingFaceOptions) -> HuggingFaceBackend:
        """Raises :class:`EvaluationError` ``DEVICE_UNAVAILABLE``, ``MODEL_LOAD_FAILED`` or ``OUT_OF_MEMORY``."""
        device = resolve_device(options.device)
        config = check_checkpoint(
            options.pretrained,
            options.model_types,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
        )
        model, processor = load_checkpoint(
            options.pretrained,
            config,
            device=device,
            dtype=options.dtype,
            device_map=options.device_map,
            attn_implementation=options.attn_implementation,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            strict_weights=options.strict_weights,
        )
        return cls(options, model, processor)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(modalities=frozenset({"text", "image"}), loglikelihood=True)

    @property
    def identity(self) -> Mapping[str, Any]:
        return self._identity

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        return self._run(requests, self._prepare)

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> Iterator[list[Answer]]:
        return self._run(requests, self._prepare_likelihood)

    def _run(self, requests: Sequence[R], prepare: Callable[[int, R], PreparedRequest]) -> Iterator[list[Answer]]:
        planner = Planner(prepare, self._encode, self._choose_size, cut_early=self._sizer.automatic)
        with Prefetcher(partial(planner.plan, requests), threads=count_threads()) as steps:
            for step in steps:
                yield from self._answer(step)

    def close(self) -> None:
        device = self.model.device
        self.model = None
        if device.type != "cpu":  # main memory is free again already, and looking through all of it takes a while
            release_memory(device)

    # Preparation: on background threads.

    def _prepare(self, index: int, request: GenerationRequest) -> PreparedRequest:
        options = self.options
        prompt, images, cost = self._read(request.messages)
        key = share_key(request.generation, bool(images))
        if key not in self._plans:
            self._plans[key] = plan_generation(
                request.generation,
                defaults=self._generation_defaults,
                max_new_tokens=options.max_new_tokens,
                use_cache=options.use_cache,
                special_tokens=self.processor.tokenizer.get_added_vocab(),
            )
        return PreparedRequest(index, prompt, images, request.generation, key, cost)

    def _prepare_likelihood(self, index: int, request: LoglikelihoodRequest) -> PreparedRequest:
        prompt, images, cost = self._read(request.messages)
        tokens = tokenize_continuation(self.processor.tokenizer, request.continuation)
        key = share_key(None, bool(images))
        return PreparedRequest(index, prompt, images, {}, key, cost + len(tokens), tokens)

    def _read(self, messages: Sequence[Message]) -> tuple[str, tuple[Any, ...], float]:
        """The conversation as prompt and decoded images, and roughly how many tokens these are."""
        options = self.options
        conversation = to_conversation(messages, options.system_prompt)
        images = tuple(load_image(source) for source in conversation.images)
        if not self._bounds_are_native:
            images = tuple(fit_pixels(image, options.min_pixels, options.max_pixels) for image in images)
        prompt = self.processor.apply_chat_template(conversation.messages, add_generation_prompt=True, tokenize=False)
        pixels = sum(image.width * image.height for image in images)
        return prompt, images, len(prompt.encode()) / _BYTES_PER_TOKEN + pixels / _PIXELS_PER_TOKEN

    def _encode(self, chunk: Sequence[PreparedRequest]) -> Any:
        prompts, images = [request.prompt for request in chunk], [request.images for request in chunk]
        if not chunk[0].continuation:
            return encode(self.processor, prompts, images)
        inputs = encode(self.processor, prompts, images, side="right")
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
        return RowSize(tokens, sum(tensor.nbytes for tensor in inputs.values()) // rows)

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
            if _device_is_lost(failure):
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
        try:
            with self._sizer.watch(len(batch.requests), row):
                return (self._score(batch) if batch.requests[0].continuation else self._generate(batch)), None
        except Exception as error:
            return [], error.with_traceback(None)

    def _score(self, batch: Batch) -> list[Answer]:
        inputs = batch.inputs.to(self.model.device, self.model.dtype)
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        scores = score_continuations(self.model, inputs, [request.continuation for request in batch.requests])
        return [
            Answer(
                request.index,
                GenerationResponse(
                    input_tokens=int(tokens), log_probability=score.log_probability, is_greedy=score.is_greedy
                ),
            )
            for request, tokens, score in zip(batch.requests, prompt_tokens, scores, strict=True)
        ]

    @torch.inference_mode()
    def _generate(self, batch: Batch) -> list[Answer]:
        plan = self._plans[batch.requests[0].key]
        inputs = batch.inputs.to(self.model.device, self.model.dtype)
        prompt_length = inputs["input_ids"].shape[1]
        tokenizer = self.processor.tokenizer
        plan.config.pad_token_id = tokenizer.pad_token_id
        criteria = [StopStrings(tokenizer, plan.stops, prompt_length)] if plan.stops else []
        output = self.model.generate(
            **inputs, generation_config=plan.config, stopping_criteria=transformers.StoppingCriteriaList(criteria)
        )
        generated = output[:, prompt_length:].tolist()
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        ends = frozenset(plan.config.eos_token_id)
        answers = []
        for request, text, tokens, asked in zip(batch.requests, texts, generated, prompt_tokens, strict=True):
            cut = truncate(text, plan.stops)
            count = _count_generated(tokens, ends, tokenizer.pad_token_id, stopped=cut != text)
            answers.append(Answer(request.index, GenerationResponse(cut, int(asked), count)))
        return answers


def _identify(options: HuggingFaceOptions, model: Any, processor: Any) -> dict[str, Any]:
    config_file = cached_file(options.pretrained, "config.json", revision=options.revision)
    image_processor = type(processor.image_processor).__name__
    return {
        "backend": "huggingface",
        "pretrained": options.pretrained,
        "revision": getattr(model.config, "_commit_hash", None) or options.revision,
        "weights_digest": digest_checkpoint(Path(config_file).parent),
        "model_class": type(model).__name__,
        "model_type": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": getattr(model.config, "_attn_implementation", None),
        "processor_class": type(processor).__name__,
        "image_processor_class": image_processor,
        "image_backend": "pil" if image_processor.endswith("Pil") else "torchvision",
        "min_pixels": options.min_pixels,
        "max_pixels": options.max_pixels,
        "chat_template_digest": digest_template(getattr(processor, "chat_template", None)),
        "system_prompt": options.system_prompt,
        "max_new_tokens": options.max_new_tokens,
        "use_cache": options.use_cache,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _count_generated(tokens: Sequence[int], ends: frozenset[int], pad: int, *, stopped: bool) -> int:
    """Tokens that the model made for this row, its end token included, the padding after it not."""
    for position, token in enumerate(tokens):
        if token in ends or token == pad:
            # After a stop string the row is filled with padding, which may be the end token itself.
            return position + 1 if token in ends and not stopped else position
    return len(tokens)


def _device_is_lost(error: BaseException) -> bool:
    """Errors after which a CUDA context answers nothing but errors."""
    accelerator_error = getattr(torch, "AcceleratorError", ())
    return isinstance(error, accelerator_error) or "CUDA error" in str(error)
