"""What of loading a checkpoint needs no device, so that it can be done while another model has it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.models.checkpoint_files import read_text
from lmms_eval_grpc.engine.models.huggingface.identity import find_folder
from lmms_eval_grpc.engine.models.huggingface.loading import check_checkpoint, load_processor_of
from lmms_eval_grpc.engine.models.huggingface.memory import free_bytes_of_machine
from lmms_eval_grpc.engine.models.huggingface.options import HuggingFaceOptions
from lmms_eval_grpc.engine.models.huggingface.weights import Blueprint

_READ_SHARE = 0.5
"""Of the machine's free memory: more than that is not read ahead, for it would push out what others read."""
_LOAD_SHARE = 1 / 16
"""The same for weights that are loaded early: the job that runs has planned with most of what is free."""


@dataclass(frozen=True, slots=True)
class ReadyCheckpoint:
    """Configuration and processor of a checkpoint, and what its files said when they were read."""

    config: Any
    processor: Any
    folder: Path
    blueprint: Blueprint
    template: str | None

    @classmethod
    def read(cls, options: HuggingFaceOptions) -> ReadyCheckpoint:
        """Raises as loading does, for the same reasons, and OSError or ValueError for files that are not there yet."""
        # First: what is read after this is what it tells, if it still tells the same later.
        folder = find_folder(options.pretrained, options.revision)
        blueprint, template = Blueprint.read(folder), read_template(options)
        _read_ahead(folder)
        config = check_checkpoint(
            options.pretrained,
            options.model_types,
            text_only=options.text_only,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
        )
        processor = load_processor_of(
            options.pretrained,
            config,
            chat_template=options.chat_template,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
        )
        return cls(config, processor, folder, blueprint, template)

    def holds_for(self, options: HuggingFaceOptions) -> bool:
        """Whether these options would still have the same read: a trainer may have written the checkpoint anew."""
        try:
            folder = find_folder(options.pretrained, options.revision)
            now = (folder, Blueprint.read(folder), read_template(options))
        except (OSError, ValueError):
            return False  # whoever loads it will say why
        return now == (self.folder, self.blueprint, self.template)


def read_template(options: HuggingFaceOptions) -> str | None:
    """The chat template that was given in the place of the checkpoint's own."""
    return None if options.chat_template is None else read_text(options.chat_template)


def may_load_early(options: HuggingFaceOptions, folder: Path) -> bool:
    """Whether the model itself can be loaded while another one works: into main memory, if it is small there."""
    on_cpu = options.device == "cpu" and options.device_map is None and not options.trust_remote_code
    return on_cpu and options.strict_weights and _fits(list(folder.glob("*.safetensors")), _LOAD_SHARE)


def _fits(files: Sequence[Path], share: float) -> bool:
    return bool(files) and sum(path.stat().st_size for path in files) <= share * free_bytes_of_machine()


def _read_ahead(folder: Path) -> None:
    """Has the kernel read the weights into its cache, behind the caller's back."""
    files = list(folder.glob("*.safetensors"))
    if _fits(files, _READ_SHARE):
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
