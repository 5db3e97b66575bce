"""Which checkpoint this is: its classes, and digests that change when its files do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import cached_file

from lmms_eval_grpc.engine.models.checkpoint_files import digest_checkpoint, digest_template
from lmms_eval_grpc.engine.models.huggingface.processor import describe_processor


def find_folder(pretrained: str, revision: str | None) -> Path:
    """Where the files of a checkpoint that can be loaded are on this machine."""
    return Path(cached_file(pretrained, "config.json", revision=revision)).parent


def identify(folder: Path, model: Any, processor: Any, weights_digest: str | None = None) -> dict[str, Any]:
    """What answers depend on of a model and a processor that were loaded from ``folder``, and of the libraries.

    ``weights_digest``: that of the folder, where it is known.
    """
    return {
        "weights_digest": weights_digest or digest_checkpoint(folder),
        "model_class": type(model).__name__,
        "model_type": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": getattr(model.config, "_attn_implementation", None),
        **describe_processor(processor),
        "chat_template_digest": digest_template(getattr(processor, "chat_template", None)),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
