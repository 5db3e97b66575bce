"""What the template process imports, so that no worker has to."""

from __future__ import annotations

import importlib
import importlib.util
import sys

ENGINE = (
    "lmms_eval_grpc.engine.run.evaluate",
    "lmms_eval_grpc.engine.models.huggingface",
)
"""The engine; it brings numpy, torch, transformers and datasets."""

LAZY = (
    "datasets.packaged_modules.parquet.parquet",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
)
"""What those import only when it is used."""

OPTIONAL = ("accelerate", "av", "scipy.io", "soundfile")
"""What those import, or the engine does, where it is installed."""

BACKBONES = ("clip", "llama", "qwen2", "qwen3", "siglip")
"""Families that the vision-language families are built from."""

BACKENDS = "lmms_eval_grpc.engine.models.preload"
"""A module whose ``PRELOAD_MODULES`` names what further backends import when they are used."""


def preload() -> None:
    """Imports what workers need, and fills what they would each fill at first use.

    What cannot be imported here is left to the worker, which can tell its user about it.
    """
    for name in (*ENGINE, *LAZY, *filter(_is_installed, OPTIONAL)):
        _import(name)
    for act in (_import_model_families, _import_backends, _prepare_images, _prepare_conversions):
        try:
            act()
        except Exception as error:
            _complain(act.__name__, error)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:
        _complain(name, error)


def _import_model_families() -> None:
    """The model code of every family that a backend is named after: some hundredths of a second each."""
    from lmms_eval_grpc.engine.models import registry

    named = {family for entry in registry.entries() for family in entry.model_types}
    for family in sorted({*BACKBONES, *named}):
        package = f"transformers.models.{family}"
        for part in ("configuration", "modeling", "processing", "image_processing_pil"):
            name = f"{package}.{part}_{family}"
            # Not every family has every part.
            if importlib.util.find_spec(package) and importlib.util.find_spec(name):
                _import(name)


def _import_backends() -> None:
    if importlib.util.find_spec(BACKENDS) is not None:
        for name in importlib.import_module(BACKENDS).PRELOAD_MODULES:
            _import(name)


def _prepare_images() -> None:
    from PIL import Image

    Image.init()


def _prepare_conversions() -> None:
    # Compiles some thousand regular expressions at its first call, whatever the model.
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")


def _complain(what: str, error: Exception) -> None:
    sys.stderr.write(f"template: {what}: {type(error).__name__}: {error}\n")
