"""From one checkpoint to another: whether the loaded model may become it, what that takes beside its weights, and
whether it was written while it was read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import transformers

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.models.checkpoint_files import digest_checkpoint, stamp_checkpoint
from lmms_eval_grpc.engine.models.huggingface.ahead import read_template
from lmms_eval_grpc.engine.models.huggingface.identity import find_folder
from lmms_eval_grpc.engine.models.huggingface.loading import load_processor_of
from lmms_eval_grpc.engine.models.huggingface.options import HuggingFaceOptions
from lmms_eval_grpc.engine.models.huggingface.weights import Blueprint, CannotSwap
from lmms_eval_grpc.engine.models.protocol import CannotReuse


def check_reusable(
    wanted: HuggingFaceOptions, loaded: HuggingFaceOptions, folder: Path, template: str | None
) -> tuple[Path, str]:
    """Folder and digest of the checkpoint that is wanted, after checking that only its files may be others.

    ``folder`` and ``template``: those that were loaded. Raises :class:`CannotReuse`.
    """
    same = replace(wanted, pretrained=loaded.pretrained, revision=loaded.revision)
    differing = [one.name for one in fields(same) if getattr(same, one.name) != getattr(loaded, one.name)]
    if differing:
        raise CannotReuse(f"it is asked for with another {', '.join(differing)}")
    if wanted.trust_remote_code:
        raise CannotReuse("a checkpoint's own code may have changed since it was imported")
    if not wanted.strict_weights:
        raise CannotReuse("weights that its files lack are drawn at random, by the job's seed")
    try:
        if read_template(wanted) != template:
            raise CannotReuse("the chat template has changed")
        found = find_folder(wanted.pretrained, wanted.revision)
        if found != folder and not Path(wanted.pretrained).is_dir():
            raise CannotReuse("another revision of a checkpoint on the hub is loaded afresh")
        return found, digest_checkpoint(found)
    except (OSError, ValueError) as error:
        raise CannotReuse(f"{wanted.pretrained}: {error}") from error


def read_successor(
    options: HuggingFaceOptions, loaded: Blueprint, config: Any, processor: Any, defaults: Any
) -> tuple[Path, Any, Any]:
    """Folder, processor and generation defaults of another checkpoint; the last two as given, where they are the same.

    The others are of the model that is loaded. Raises :class:`CannotSwap` unless both models are built alike.
    """
    try:
        folder = find_folder(options.pretrained, options.revision)
        wanted = Blueprint.read(folder)
    except (OSError, ValueError) as error:
        raise CannotSwap(f"{options.pretrained}: {error}") from error
    loaded.check_same_model(wanted)
    try:
        if wanted.processor != loaded.processor:
            processor = load_processor_of(
                options.pretrained,
                config,
                chat_template=options.chat_template,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
            )
        if wanted.generation != loaded.generation:
            defaults = transformers.GenerationConfig.from_pretrained(folder)
    except Exception as error:
        raise CannotSwap(f"{options.pretrained}: {error}") from error
    return folder, processor, defaults


@contextmanager
def unchanged_while_loaded(pretrained: str) -> Iterator[None]:
    """Around loading and identifying: the digest is that of the files after loading, the weights must be of the same.

    Raises :class:`EvaluationError` ``CHECKPOINT_CHANGED`` at the end, if the checkpoint was written in the meantime.
    """
    stamp = _stamp(pretrained)
    yield
    if _stamp(pretrained) != stamp:
        raise EvaluationError(
            "CHECKPOINT_CHANGED",
            f"checkpoint {pretrained!r} was written while it was loaded, so the model may be of neither version; submit"
            " it once it is whole, and let the trainer write each checkpoint into a folder of its own",
        )


def _stamp(pretrained: str) -> Any:
    # What comes from the hub is named by its commit, and may be downloaded only now.
    folder = Path(pretrained).expanduser()
    return stamp_checkpoint(folder) if folder.is_dir() else None
