"""The ``model_args`` and generation arguments of servers that speak OpenAI's API. Imports no library.

Names are those of lmms-eval's backends.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmms_eval_grpc.engine.models.entry import REQUIRED, ModelArgument
from lmms_eval_grpc.engine.models.generation_arguments import COMMON_KEYS

PLAIN_KEYS = ("seed", "presence_penalty", "frequency_penalty", "logit_bias", "reasoning_effort")
SAMPLING_KEYS = ("top_p",)
OTHER_SERVERS_KEYS = (
    *("top_k", "min_p", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "length_penalty"),
)
"""Not in OpenAI's API; sent beside it, for servers such as vLLM that know them. Others refuse the request."""
ONE_KEYS = ("n", "num_return_sequences", "num_beams")
"""Only 1 is taken."""
LOCAL_KEYS = ("use_cache",)
"""How a model in this process computes; a server has its own way."""


def generation_keys() -> frozenset[str]:
    """The keys of generation arguments that requests can carry."""
    return COMMON_KEYS.union(PLAIN_KEYS, SAMPLING_KEYS, OTHER_SERVERS_KEYS, ONE_KEYS, LOCAL_KEYS)


def request_arguments(
    *, max_new_tokens: int, frames: int, max_frames: int, max_pixels: int, most_concurrent: int
) -> Mapping[str, ModelArgument]:
    """What requests look like and how many go out at once, with a backend's own defaults."""
    return {
        "max_new_tokens": ModelArgument(
            int, max_new_tokens, "Longest answer, in tokens, for tasks that set no max_new_tokens."
        ),
        "system_prompt": ModelArgument(
            (str, type(None)),
            None,
            "System message for conversations that bring none: its text, or a file with it.",
            names="file",
        ),
        "nframes": ModelArgument(
            (int, type(None)),
            frames,
            "Frames taken of a video, spread evenly, where fps is not set.",
            other_names=("max_frames_num", "max_num_frames"),
        ),
        "fps": ModelArgument(
            (float, type(None)), None, "Frames taken of each second of a video.", other_names=("video_fps",)
        ),
        "max_frames": ModelArgument(
            (int, type(None)), max_frames, "Most frames taken of a video by fps.", other_names=("max_frame_num",)
        ),
        "max_pixels": ModelArgument(
            (int, type(None)), max_pixels, "Frames of a video with more pixels are scaled down to these."
        ),
        "min_pixels": ModelArgument(
            (int, type(None)), 28 * 28, "Frames of a video with fewer pixels are enlarged to these."
        ),
        "is_qwen3_vl": ModelArgument(bool, False, "Say the time before each frame of a video, as Qwen3-VL wants."),
        "pass_video_url": ModelArgument(bool, False, "Send a video's address instead of its frames."),
        "max_size_in_mb": ModelArgument(float, 20, "Images that are larger when encoded are scaled down, in MiB."),
        "enable_thinking_kwarg": ModelArgument(
            (bool, type(None)), None, "enable_thinking for the server's chat template; unset: the template's own."
        ),
        "extra_body": ModelArgument(
            (dict, type(None)),
            None,
            "Further fields of every request, for what only this server knows.",
            names="elsewhere",
        ),
        "timeout": ModelArgument(float, 600, "Seconds that one attempt may take.", ),
        "max_retries": ModelArgument(int, 5, "How often a request is tried, if its failures may pass."),
        "retry_backoff_s": ModelArgument(
            float, 1.0, "Seconds before the second attempt; doubles with each further one, up to a minute."
        ),
        "num_concurrent": ModelArgument(
            (int, type(None)),
            None,
            "Requests at once: the most of them, or exactly that many where adaptive_concurrency is off; unset:"
            " adaptive_max_concurrency.",
            other_names=("num_cpus",),
        ),
        "adaptive_concurrency": ModelArgument(
            bool, True, "Begin with few requests at once, add more while all is well, take back when it is not."
        ),
        "adaptive_min_concurrency": ModelArgument(int, 1, "Requests at once, at least."),
        "adaptive_max_concurrency": ModelArgument(int, most_concurrent, "Requests at once, at most."),
        "adaptive_decrease_factor": ModelArgument(
            float, 0.7, "What the number of requests at once is multiplied by when the server is overloaded."
        ),
    }  # fmt: skip


def server_arguments() -> Mapping[str, ModelArgument]:
    """Which model, and where it is served."""
    return {
        "model_version": ModelArgument(
            str,
            REQUIRED,
            "The model's name as the server knows it.",
            other_names=("model", "pretrained"),
            names="elsewhere",
        ),
        "base_url": ModelArgument(
            (str, type(None)),
            None,
            "The server's address, up to /v1; unset: OPENAI_API_BASE, OPENAI_BASE_URL or OPENAI_API_URL of the"
            " environment, else OpenAI's own.",
            names="elsewhere",
        ),
        "api_key": ModelArgument(
            (str, type(None)),
            None,
            "The key; better in the environment of the server, as OPENAI_API_KEY.",
            names="elsewhere",
        ),
        "azure_openai": ModelArgument(
            bool, False, "Azure's interface: AZURE_OPENAI_API_KEY, AZURE_OPENAI_API_BASE, AZURE_OPENAI_API_VERSION."
        ),
        "httpx_trust_env": ModelArgument(bool, True, "Go through the proxies that the environment names."),
        "extra_headers": ModelArgument(
            (dict, type(None)), None, "Further headers of every request.", names="elsewhere"
        ),
    }  # fmt: skip


OPENAI_ARGUMENTS: Mapping[str, ModelArgument] = {
    **server_arguments(),
    **request_arguments(max_new_tokens=1024, frames=10, max_frames=768, max_pixels=151_200, most_concurrent=128),
}

ASYNC_OPENAI_ARGUMENTS: Mapping[str, ModelArgument] = {
    **server_arguments(),
    **request_arguments(max_new_tokens=1024, frames=64, max_frames=768, max_pixels=151_200, most_concurrent=128),
}
