"""Files of dataset repositories on the Hugging Face hub, through its own client: its cache, token and mirrors count."""

from __future__ import annotations

from pathlib import Path

from lmms_eval_grpc.engine.api import EvaluationError
from lmms_eval_grpc.engine.record.baseline_source import HubSource


def listing(source: HubSource) -> list[str]:
    """The paths of the repository's files. Raises EvaluationError BASELINE_UNREADABLE."""
    from huggingface_hub import HfApi

    try:
        return list(HfApi().list_repo_files(source.repo, repo_type="dataset", revision=source.revision))
    except Exception as error:
        raise _unreachable(source, error) from error


def download(source: HubSource) -> Path:
    """Where ``source.file`` lies on this machine. Raises EvaluationError BASELINE_UNREADABLE."""
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(source.repo, source.file or "", repo_type="dataset", revision=source.revision)
    except Exception as error:
        raise _unreachable(source, error) from error
    return Path(path)


def _unreachable(source: HubSource, error: Exception) -> EvaluationError:
    """The client raises errors of many kinds: of the network, of HTTP, of its cache."""
    place = "/".join(part for part in (f"hf://{source.repo}", source.file) if part)
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return EvaluationError(
        "BASELINE_UNREADABLE",
        f"{place} cannot be had from the hub ({reason}); check the name, the network and the token (HF_TOKEN), or "
        "download the file and give its path",
    )
