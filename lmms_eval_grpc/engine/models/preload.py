"""Modules worth importing once, in a process that workers are forked from.

Found by comparing ``sys.modules`` before and after a first evaluation of every family: transformers and datasets import
most of themselves only when something is first used, which costs each worker seconds. Importing these in an environment
with :data:`PRELOAD_ENVIRONMENT` starts no thread and touches no CUDA device. Light: this module imports none of them,
and a name that does not exist (another version of a library, a package not installed) may be skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PRELOAD_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # NumPy's and SciPy's OpenBLAS start their thread pools on import; images and scores need none.
        "OPENBLAS_NUM_THREADS": "1",
        # The allocator inside pyarrow starts a thread that tidies up.
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
    }
)
"""Set before Python starts, these keep a process that has imported everything at one thread, which forking needs."""

_FAMILIES = (
    ("clip", ("configuration_clip", "image_processing_pil_clip", "modeling_clip")),
    ("gemma3", ("configuration_gemma3", "image_processing_pil_gemma3", "modeling_gemma3", "processing_gemma3")),
    ("got_ocr2", ("image_processing_pil_got_ocr2",)),
    ("idefics3", ("configuration_idefics3", "image_processing_pil_idefics3", "modeling_idefics3")),
    ("idefics3", ("processing_idefics3",)),
    ("internvl", ("configuration_internvl", "modeling_internvl", "processing_internvl")),
    ("llama", ("configuration_llama", "modeling_llama")),
    ("llava", ("configuration_llava", "modeling_llava", "processing_llava")),
    ("llava_onevision", ("configuration_llava_onevision", "image_processing_pil_llava_onevision")),
    ("llava_onevision", ("modeling_llava_onevision", "processing_llava_onevision")),
    ("qwen2", ("configuration_qwen2", "modeling_qwen2", "tokenization_qwen2")),
    ("qwen2_vl", ("configuration_qwen2_vl", "image_processing_pil_qwen2_vl", "modeling_qwen2_vl")),
    ("qwen2_vl", ("processing_qwen2_vl",)),
    ("qwen2_5_vl", ("configuration_qwen2_5_vl", "modeling_qwen2_5_vl", "processing_qwen2_5_vl")),
    ("qwen3_vl", ("configuration_qwen3_vl", "modeling_qwen3_vl", "processing_qwen3_vl")),
    ("siglip", ("configuration_siglip", "image_processing_pil_siglip", "modeling_siglip")),
    ("smolvlm", ("configuration_smolvlm", "image_processing_pil_smolvlm", "modeling_smolvlm", "processing_smolvlm")),
)

PRELOAD_MODULES: tuple[str, ...] = (
    "lmms_eval_grpc.engine.run.evaluate",
    "lmms_eval_grpc.engine.models.huggingface",
    "torch",
    "accelerate",
    "transformers.generation.candidate_generator",
    "transformers.generation.utils",
    "transformers.masking_utils",
    "transformers.modeling_layers",
    "transformers.vision_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    *(f"transformers.models.{family}.{module}" for family, modules in _FAMILIES for module in modules),
    "datasets",
    "datasets.formatting.np_formatter",
    "datasets.formatting.torch_formatter",
    "datasets.packaged_modules.json.json",
    "datasets.packaged_modules.parquet.parquet",
    "huggingface_hub.hf_file_system",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.json",
    "pyarrow.parquet",
    "scipy.io",
    "threadpoolctl",
    "tqdm.contrib.concurrent",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.PpmImagePlugin",
    "PIL.TiffImagePlugin",
    "PIL.WebPImagePlugin",
    "_strptime",
    "encodings.idna",
    "stringprep",
    "xml.etree.ElementTree",
    "zoneinfo",
)
