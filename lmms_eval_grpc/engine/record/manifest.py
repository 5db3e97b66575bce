"""The manifest: everything that an evaluation's scores depend on, so that two of them can be compared."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.record.plain_json import to_plain
from lmms_eval_grpc.engine.record.redact import redact
from lmms_eval_grpc.engine.tasks.task import Task

MANIFEST_VERSION = 1

_PACKAGES = (
    "lmms-eval-grpc",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "tokenizers",
    "datasets",
    "numpy",
    "pillow",
    "av",
    "soundfile",
    "flash-attn",
)
"""Packages whose version can change a score."""


def build_manifest(
    config: EvaluationConfig,
    tasks: Sequence[Task],
    model_identity: Mapping[str, Any],
    *,
    device: Mapping[str, Any] | None = None,
    processor_backend: str = "",
) -> dict[str, Any]:
    """The manifest as plain JSON values, secrets left out.

    ``model_identity`` is the backend's own account of the checkpoint, ``device`` of the hardware; ``processor_backend``
    names what turns images into pixels, because two such libraries give different ones.
    """
    python, numpy, torch, fewshot = config.seed
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "model": dict(model_identity),
        "model_args": dict(config.model_args),
        "device": {"name": config.device, **(device or {})},
        "processor_backend": processor_backend,
        "seeds": {"python": python, "numpy": numpy, "torch": torch, "fewshot": fewshot},
        "limit": config.limit,
        "offset": config.offset,
        "batch_size": config.batch_size,
        "system_instruction": config.system_instruction,
        "tasks": {task.name: _task(task) for task in tasks},
    }
    plain: dict[str, Any] = redact(to_plain(manifest))
    return plain


def _task(task: Task) -> dict[str, Any]:
    return {
        "identity": task.identity,
        "version": task.version,
        "dataset_path": task.config.dataset_path,
        "dataset_name": task.config.dataset_name,
        "split": task.split,
        "dataset_fingerprint": task.dataset_fingerprint,
        "documents": task.total_documents,
        "generation_kwargs": task.config.generation_kwargs,
        "filters": [pipeline.name for pipeline in task.pipelines],
        "metrics": {metric.name: metric.aggregation_name for metric in task.metrics},
        "reasoning_tags": task.reasoning_tags,
        "prompt": task.prompt_policy,
        "repeats": task.repeats,
    }


def _versions() -> dict[str, str]:
    """Of the installed ones; read from their metadata, nothing is imported."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
