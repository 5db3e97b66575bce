"""Any chat model that Hugging Face transformers loads, as a backend.

One implementation for every family: the checkpoint's own processor and chat template say what its prompts look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers.utils import cached_file

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.entry import LoadSettings, ModelEntry
from lmms_eval_grpc.engine.models.huggingface.conversation import to_conversation
from lmms_eval_grpc.engine.models.huggingface.generation import GenerationPlan, plan_generation
from lmms_eval_grpc.engine.models.huggingface.identity import digest_checkpoint, digest_template
from lmms_eval_grpc.engine.models.huggingface.likelihood import (
    append_continuations,
    score_continuations,
    tokenize_continuation,
)
from lmms_eval_grpc.engine.models.huggingface.loading import (
    check_checkpoint,
    load_checkpoint,
    resolve_device,
)
from lmms_eval_grpc.engine.models.huggingface.media import Media, MediaReader
from lmms_eval_grpc.engine.models.huggingface.memory import BatchSizer, RowSize, is_out_of_memory, release_memory
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
from lmms_eval_grpc.engine.models.huggingface.processor import describe_processor, encode
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

_BYTES_PER_TOKEN = 4
"""Of a prompt's text in UTF-8, roughly so in every language; only sorts requests by length."""
_EXACT_INPUTS = ("second_per_grid_ts", "video_second_per_grid")
"""Times, which half precision would shift."""


def load(entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> HuggingFaceBackend:
    """The registry's loader of every Hugging Face family."""
    return HuggingFaceBackend.load(HuggingFaceOptions.of(entry, values, settings))


class HuggingFaceBackend:
    """A loaded checkpoint. Made by :meth:`load`; not to be used from several threads at once."""

    def __init__(self, options: HuggingFaceOptions, model: Any, processor: Any) -> None:
        self.options = options
        # Now and not when asked: a trainer that keeps its newest checkpoints only may soon remove the folder.
        self._identity = _identify(options, model, processor)
        self.model = model
        self.processor = processor
        self._media = plan_media(options, model.config.model_type, processor)
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
            text_only=options.text_only,
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
            chat_template=options.chat_template,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            strict_weights=options.strict_weights,
        )
        return cls(options, model, processor)

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
        prompt, media, cost = self._read(request.messages)
        key = share_key(request.generation, media)
        if key not in self._plans:
            self._plans[key] = plan_generation(
                request.generation,
                defaults=self._generation_defaults,
                max_new_tokens=options.max_new_tokens,
                use_cache=options.use_cache,
                special_tokens=self.processor.tokenizer.get_added_vocab(),
            )
        return PreparedRequest(index, prompt, media, request.generation, key, cost)

    def _prepare_likelihood(self, index: int, request: LoglikelihoodRequest) -> PreparedRequest:
        prompt, media, cost = self._read(request.messages)
        tokens = tokenize_continuation(self.processor.tokenizer, request.continuation)
        key = share_key(None, media)
        return PreparedRequest(index, prompt, media, {}, key, cost + len(tokens), tokens)

    def _read(self, messages: Sequence[Message]) -> tuple[str, Media, float]:
        """The conversation as prompt and decoded media, and roughly how many tokens these are."""
        options = self.options
        reader = MediaReader(self._media, self.model.config.model_type, messages)
        conversation = to_conversation(
            messages,
            reader.read,
            system_prompt=options.system_prompt,
            reasoning_prompt=options.reasoning_prompt,
            interleave_visuals=options.interleave_visuals,
        )
        thinking = {} if options.enable_thinking is None else {"enable_thinking": options.enable_thinking}
        prompt = self.processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=False, **thinking
        )
        media = reader.media
        return prompt, media, len(prompt.encode()) / _BYTES_PER_TOKEN + media.tokens

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

    def _place(self, inputs: Any) -> Any:
        """The tensors on the model's device, pixels and sound in its number format."""
        for name, tensor in inputs.items():
            exact = name in _EXACT_INPUTS or not tensor.is_floating_point()
            inputs[name] = tensor.to(self.model.device, None if exact else self.model.dtype)
        return inputs

    def _score(self, batch: Batch) -> list[Answer]:
        inputs = self._place(batch.inputs)
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
        inputs = self._place(batch.inputs)
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
            if self.options.enable_thinking:
                _, _, text = text.partition("</think>")
                text = text.strip()
            cut = truncate(text, plan.stops)
            count = _count_generated(tokens, ends, tokenizer.pad_token_id, stopped=cut != text)
            answers.append(Answer(request.index, GenerationResponse(cut, int(asked), count)))
        return answers


def _identify(options: HuggingFaceOptions, model: Any, processor: Any) -> dict[str, Any]:
    config_file = cached_file(options.pretrained, "config.json", revision=options.revision)
    return {
        "backend": "huggingface",
        "pretrained": options.pretrained,
        "revision": getattr(model.config, "_commit_hash", None) or options.revision,
        "weights_digest": digest_checkpoint(Path(config_file).parent),
        "model_class": type(model).__name__,
        "model_type": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": getattr(model.config, "_attn_implementation", None),
        **describe_processor(processor),
        **options.recorded,
        "chat_template_digest": digest_template(getattr(processor, "chat_template", None)),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _count_bytes(value: Any) -> int:
    return int(value.nbytes) if isinstance(value, torch.Tensor) else 0


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
