"""The manifest: everything that an evaluation's scores depend on, so that two of them can be compared."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.data.media.environment import decode_backend
from lmms_eval_grpc.engine.judge.protocol import is_compat_parsing
from lmms_eval_grpc.engine.record.code_version import code_version
from lmms_eval_grpc.engine.record.plain_json import to_plain
from lmms_eval_grpc.engine.record.redact import redact, secret_values
from lmms_eval_grpc.engine.tasks.task import Task

MANIFEST_VERSION = 2

_PACKAGES = (
    "lmms-eval-grpc",
    "lmms-eval",
    "torch",
    "torchvision",
    "torchaudio",
    "torchcodec",
    "transformers",
    "accelerate",
    "tokenizers",
    "datasets",
    "huggingface-hub",
    "numpy",
    "pillow",
    "av",
    "decord",
    "librosa",
    "soundfile",
    "flash-attn",
    "vllm",
    "sglang",
    "qwen-vl-utils",
    "peft",
    "bitsandbytes",
    "sacrebleu",
    "jinja2",
    "pyyaml",
)
"""Packages whose version can change a score."""


def build_manifest(
    config: EvaluationConfig,
    tasks: Sequence[Task],
    model_identity: Mapping[str, Any],
    *,
    device: Mapping[str, Any] | None = None,
    processor_backend: str = "",
    doc_ids: Mapping[str, Sequence[int]] | None = None,
    baseline: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest as plain JSON values, secrets left out.

    ``model_identity`` is the backend's own account of the checkpoint, ``device`` of the hardware; ``processor_backend``
    names what turns images into pixels, because two such libraries give different ones, as do two decoders of videos.
    ``doc_ids`` are the documents that each task runs; else what limit and offset select. ``baseline`` is the earlier
    run that this one is compared with.
    """
    python, numpy, torch, fewshot = config.seed
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(package_versions()),
        "code": code_version(),
        "model": {"name": config.model, **model_identity},
        "model_args": dict(config.model_args),
        "device": {"name": config.device, **(device or {})},
        "processor_backend": processor_backend,
        "decode_backend": decode_backend(),
        "seeds": {"python": python, "numpy": numpy, "torch": torch, "fewshot": fewshot},
        "limit": config.limit,
        "offset": config.offset,
        "batch_policy": {
            "batch_size": "auto" if config.batch_size is None else config.batch_size,
            "max_batch_size": config.max_batch_size,
            "tasks_share_batches": False,
        },
        "gen_kwargs": dict(config.gen_kwargs),
        "system_instruction": config.system_instruction,
        "apply_chat_template": config.apply_chat_template,
        "fewshot_as_multiturn": config.fewshot_as_multiturn,
        "judge_parsing": "lmms-eval" if is_compat_parsing() else "strict",
        "compat": sorted(config.compat),
        "baseline": None if baseline is None else dict(baseline),
        "tasks": {task.name: _task(task, (doc_ids or {}).get(task.name)) for task in tasks},
    }
    plain: dict[str, Any] = redact(to_plain(manifest), secret_values([config.model_args, config.gen_kwargs]))
    return plain


def items_digest(doc_ids: Sequence[int]) -> str:
    """SHA-256 of which documents were run, in which order. What is in them is in the dataset's fingerprint."""
    return hashlib.sha256("\n".join(map(str, doc_ids)).encode()).hexdigest()


def _task(task: Task, doc_ids: Sequence[int] | None) -> dict[str, Any]:
    ids = task.doc_ids(task.evaluation.limit, task.evaluation.offset) if doc_ids is None else doc_ids
    config = json.dumps(to_plain(task.config.dump()), sort_keys=True, ensure_ascii=False)
    return {
        "identity": task.identity,
        "version": task.version,
        "config_digest": hashlib.sha256(config.encode()).hexdigest(),
        "function_sources": dict(task.source_digests),
        "dataset_path": task.config.dataset_path,
        "dataset_name": task.config.dataset_name,
        "dataset_revision": (task.config.dataset_kwargs or {}).get("revision"),
        "split": task.split,
        "dataset_fingerprint": task.dataset_fingerprint,
        "documents": task.total_documents,
        "items": len(ids),
        "items_digest": items_digest(ids),
        "output_type": task.config.output_type,
        "generation_kwargs": task.config.generation_kwargs,
        "filters": [pipeline.name for pipeline in task.pipelines],
        "metrics": {metric.name: metric.aggregation_name for metric in task.metrics},
        "reasoning_tags": task.reasoning_tags,
        "prompt": task.prompt_policy,
        "repeats": task.repeats,
    }


@functools.cache
def package_versions() -> Mapping[str, str]:
    """Of the installed packages that can change a score; read from their metadata, nothing is imported."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
