"""The ``model_args`` of servers that a job starts itself, in the names of lmms-eval's backends. Imports no library."""

from __future__ import annotations

from collections.abc import Mapping

from lmms_eval_grpc.engine.models.entry import REQUIRED, ModelArgument
from lmms_eval_grpc.engine.models.openai.arguments import request_arguments

_MODEL: Mapping[str, ModelArgument] = {
    "pretrained": ModelArgument(
        str,
        REQUIRED,
        "Folder of a checkpoint, its id on the Hugging Face Hub, or a URL that fsspec reads.",
        other_names=("model",),
        names="checkpoint",
    ),
    "dtype": ModelArgument(str, "auto", "Number format of the weights; auto: as saved."),
    "trust_remote_code": ModelArgument(bool, False, "Allow the checkpoint's own Python code to run."),
    "startup_timeout": ModelArgument(float, 1800, "Seconds until the server must be ready."),
    "server_args": ModelArgument(
        (dict, type(None)),
        None,
        "Further arguments of the server's command line, by their names without dashes in front.",
    ),
}

_ENGINE: Mapping[str, ModelArgument] = {
    "tensor_parallel_size": ModelArgument(
        (int, type(None)), None, "GPUs that share each layer; unset: all of the job's, over data_parallel_size."
    ),
    "data_parallel_size": ModelArgument(int, 1, "Replicas of the model."),
    "gpu_memory_utilization": ModelArgument(float, 0.8, "Share of each GPU's memory for weights and cache."),
    "max_model_len": ModelArgument((int, type(None)), None, "Longest prompt and answer together, in tokens."),
    "revision": ModelArgument((str, type(None)), None, "Branch, tag or commit of a Hub checkpoint."),
    "quantization": ModelArgument((str, type(None)), None, "How the weights are quantised; unset: as saved."),
    "kv_cache_dtype": ModelArgument((str, type(None)), None, "Number format of the cache, e.g. fp8."),
    "chat_template": ModelArgument(
        (str, type(None)), None, "Chat template, or a file with it; unset: the checkpoint's own.", names="file"
    ),
}

VLLM_ARGUMENTS: Mapping[str, ModelArgument] = {
    **_MODEL,
    **_ENGINE,
    "enforce_eager": ModelArgument((bool, type(None)), None, "Do without CUDA graphs."),
    "max_num_seqs": ModelArgument((int, type(None)), None, "Sequences that the server works on at once."),
    "limit_mm_per_prompt": ModelArgument((dict, type(None)), None, "Most media of each kind in a prompt."),
    "mm_processor_kwargs": ModelArgument((dict, type(None)), None, "Settings of the checkpoint's media processor."),
    "hf_overrides": ModelArgument((dict, type(None)), None, "Changes to the checkpoint's configuration."),
    "override_generation_config": ModelArgument(
        (dict, type(None)), None, "Changes to the checkpoint's generation configuration."
    ),
    "disable_log_stats": ModelArgument((bool, type(None)), None, "Keep the server's statistics out of the log."),
    **request_arguments(max_new_tokens=4096, frames=32, max_frames=768, max_pixels=1_605_632, most_concurrent=256),
}

SGLANG_ARGUMENTS: Mapping[str, ModelArgument] = {
    **_MODEL,
    **_ENGINE,
    "json_model_override_args": ModelArgument(
        (dict, str, type(None)), None, "Changes to the checkpoint's configuration."
    ),
    **request_arguments(max_new_tokens=4096, frames=32, max_frames=768, max_pixels=1_605_632, most_concurrent=256),
}

TRANSFORMERS_SERVE_ARGUMENTS: Mapping[str, ModelArgument] = {
    **_MODEL,
    "attn_implementation": ModelArgument(
        (str, type(None)), None, "Attention kernels, e.g. sdpa, eager; unset: the model's own choice."
    ),
    # It works on one request after the other; more wait there as well as here.
    **request_arguments(max_new_tokens=4096, frames=32, max_frames=768, max_pixels=1_605_632, most_concurrent=4),
}
