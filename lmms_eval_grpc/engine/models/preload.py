"""What to import once, in a process that workers are forked from, so that no worker has to.

Found by comparing ``sys.modules`` before and after a first evaluation of every family: transformers and datasets import
most of themselves only when something is first used, which costs each worker seconds. In an environment with
:data:`PRELOAD_ENVIRONMENT` the imports start no thread and touch no CUDA device, so that a fork is sound. Light until
:func:`preload` is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from lmms_eval_grpc.engine.models import registry

PRELOAD_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # The thread pools of numeric libraries start on import; images and scores need none.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # The allocator inside pyarrow starts a thread that tidies up.
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        # Asking whether there is a GPU must not initialise CUDA, which would then be broken in every fork.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
)
"""To be set before the first import; keeps a process that has imported everything at one thread."""

_LIBRARIES = (
    "lmms_eval_grpc.engine.run.evaluate",
    "lmms_eval_grpc.engine.models.huggingface.backend",
    "transformers.generation.candidate_generator",
    "transformers.generation.utils",
    "transformers.masking_utils",
    "transformers.modeling_layers",
    "transformers.vision_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "datasets.formatting.np_formatter",
    "datasets.formatting.torch_formatter",
    "datasets.packaged_modules.json.json",
    "datasets.packaged_modules.parquet.parquet",
    "huggingface_hub.hf_file_system",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.json",
    "pyarrow.parquet",
    "threadpoolctl",
    "tqdm.contrib.concurrent",
    "_strptime",
    "encodings.idna",
    "stringprep",
    "xml.etree.ElementTree",
    "zoneinfo",
)

_OPTIONAL = ("accelerate", "av", "scipy.io", "soundfile", "soxr")
"""Imported by those, or by the engine, where they are installed."""

_BACKBONES = ("clip", "got_ocr2", "llama", "mistral", "qwen2", "siglip", "whisper")
"""Families that the others are built from."""

_PARTS = ("configuration", "modeling", "processing", "image_processing_pil", "feature_extraction", "tokenization")


def preload() -> None:
    """Imports what evaluations need, and fills what each would fill at first use.

    What cannot be imported here is left to the evaluation that needs it, which can tell its user about it.
    """
    for name in (*_LIBRARIES, *filter(_is_installed, _OPTIONAL), *_family_modules()):
        try:
            importlib.import_module(name)
        except Exception as error:
            _complain(name, error)
    for prepare in (_prepare_images, _prepare_versions, _prepare_conversions, _prepare_plugins):
        try:
            prepare()
        except Exception as error:
            _complain(prepare.__name__, error)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None


def _family_modules() -> Iterator[str]:
    """The model code of every family that a backend is named after: some hundredths of a second each."""
    named = {family for entry in registry.entries() for family in entry.model_types}
    for family in sorted({*_BACKBONES, *named}):
        package = f"transformers.models.{family}"
        for part in _PARTS:
            name = f"{package}.{part}_{family}"
            # Not every family has every part.
            if importlib.util.find_spec(package) and importlib.util.find_spec(name):
                yield name


def _prepare_images() -> None:
    from PIL import Image

    Image.init()


def _prepare_versions() -> None:
    from lmms_eval_grpc.engine.record.manifest import package_versions

    package_versions()


def _prepare_conversions() -> None:
    # Compiles some thousand regular expressions at its first call, whatever the model.
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")


def _prepare_plugins() -> None:
    from lmms_eval_grpc.engine.packages import entry_points
    from lmms_eval_grpc.engine.tasks import sources

    entry_points(sources.ENTRY_POINTS)


def _complain(what: str, error: Exception) -> None:
    sys.stderr.write(f"preload: {what}: {type(error).__name__}: {error}\n")
