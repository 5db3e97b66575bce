"""What starts each server: a command line, an environment, and what is known of its ways."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmms_eval_grpc.engine.api import EvaluationError

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """How to start a server that listens at a port of this machine."""

    package: str
    """Whose version answers depend on."""
    arguments: tuple[str, ...]
    """The command line, but for the port."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    key_option: str | None = None
    """The option that takes the key, where no environment variable does."""
    takes_stop: bool = True

    def line(self, port: int, key: str) -> list[str]:
        secret = [self.key_option, key] if self.key_option else []
        return [*self.arguments, "--host", HOST, "--port", str(port), *secret]


CommandBuilder = Callable[[Mapping[str, Any], str, str], ServerCommand]
"""From the values of all arguments, the job's device and the key to a command."""


def vllm(values: Mapping[str, Any], device: str, key: str) -> ServerCommand:
    """``vllm serve``. The key goes by the environment, where other users of the machine do not see it."""
    names = ("dtype", "gpu_memory_utilization", "max_model_len", "revision", "quantization", "kv_cache_dtype",
             "chat_template", "enforce_eager", "max_num_seqs", "limit_mm_per_prompt", "mm_processor_kwargs",
             "hf_overrides", "override_generation_config")  # fmt: skip
    options = {name: values[name] for name in names}
    options |= {
        "tensor_parallel_size": _tensor_parallel(values),
        "data_parallel_size": values["data_parallel_size"],
        # Two that cannot be said to be false in every version.
        "trust_remote_code": values["trust_remote_code"] or None,
        "disable_log_stats": values["disable_log_stats"] or None,
        "allowed_local_media_path": "/" if values["pass_video_url"] else None,
    }
    options |= values["server_args"] or {}
    arguments = (sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", values["pretrained"])
    return ServerCommand("vllm", (*arguments, *_flags(options, negatable=True)), {"VLLM_API_KEY": key})


def sglang(values: Mapping[str, Any], device: str, key: str) -> ServerCommand:
    """``python -m sglang.launch_server``."""
    names = ("dtype", "revision", "quantization", "kv_cache_dtype", "chat_template", "json_model_override_args")
    options = {name: values[name] for name in names}
    options |= {
        "tp_size": _tensor_parallel(values),
        "dp_size": values["data_parallel_size"],
        "mem_fraction_static": values["gpu_memory_utilization"],
        "context_length": values["max_model_len"],
        "trust_remote_code": values["trust_remote_code"],
    }
    options |= values["server_args"] or {}
    arguments = (sys.executable, "-m", "sglang.launch_server", "--model-path", values["pretrained"])
    return ServerCommand("sglang", (*arguments, *_flags(options)), key_option="--api-key")


def transformers_serve(values: Mapping[str, Any], device: str, key: str) -> ServerCommand:
    """``transformers serve``, which knows no key and fails at ``stop`` for models with images."""
    options = {
        "device": device,
        "dtype": values["dtype"],
        "attn_implementation": values["attn_implementation"],
        "trust_remote_code": values["trust_remote_code"],
        "log_level": "error",  # it warns of every request
        **(values["server_args"] or {}),
    }
    arguments = (sys.executable, "-m", "transformers.cli.transformers", "serve", values["pretrained"])
    return ServerCommand("transformers", (*arguments, *_flags(options)), takes_stop=False)


BUILDERS: Mapping[str, CommandBuilder] = {
    "vllm": vllm,
    "sglang": sglang,
    "transformers_serve": transformers_serve,
}
"""By the entry's name."""


def _flags(options: Mapping[str, Any], *, negatable: bool = False) -> list[str]:
    """``max_model_len: 5`` as ``--max-model-len 5``; None is left out, false too unless it can be said."""
    flags: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if value is True:
            flags.append(f"--{flag}")
        elif value is False:
            flags += [f"--no-{flag}"] if negatable else []
        elif isinstance(value, dict | list):
            flags += [f"--{flag}", json.dumps(value)]
        elif value is not None:
            flags += [f"--{flag}", str(value)]
    return flags


def _tensor_parallel(values: Mapping[str, Any]) -> int:
    """As asked, or so that all of the job's GPUs are used."""
    wanted = values["tensor_parallel_size"]
    replicas = int(values["data_parallel_size"])
    if replicas < 1 or (wanted is not None and wanted < 1):
        raise EvaluationError(
            "INVALID_MODEL_ARGS",
            f"tensor_parallel_size and data_parallel_size must be positive, but are {wanted} and {replicas}",
        )
    if wanted is not None:
        return int(wanted)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return max(1, len(visible) // replicas)
