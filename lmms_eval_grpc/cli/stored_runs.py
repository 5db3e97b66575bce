"""Runs that lie on disk, by whatever path people name them: a samples file, a results file, or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmms_eval_grpc.cli.usage import UsageError
from lmms_eval_grpc.engine.record.stored import StoredResults, StoredSample, read_results, read_samples

_RESULTS = "_results.json"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """What one path stands for."""

    path: Path
    samples_paths: tuple[Path, ...]
    results: StoredResults | None = None
    """None where there is only a samples file."""

    def samples(self) -> list[StoredSample]:
        """All of them. Raises EvaluationError RECORD_UNREADABLE."""
        return [sample for path in self.samples_paths for sample in read_samples(path)]

    def higher_is_better(self) -> Mapping[str, bool]:
        """By metric, as far as the results say it."""
        if self.results is None:
            return {}
        listed = map(self.results.higher_is_better, self.results.metrics)
        return {metric: better for one in listed for metric, better in one.items()}


def find_run(path: Path) -> StoredRun:
    """The run at ``path``: a ``*.jsonl`` file of samples, a ``*_results.json`` file, or a folder with such files in it
    or below it, of which the newest that has samples counts.

    Raises UsageError where there are no samples, and EvaluationError RECORD_UNREADABLE for a broken results file.
    """
    if path.is_dir():
        return _find_in_folder(path)
    if not path.is_file():
        raise UsageError(f"there is no file or folder {str(path)!r}; name a samples file, a results file or a folder")
    if path.name.endswith(_RESULTS):
        results = read_results(path)
        if not results.samples_paths:
            raise UsageError(f"{path} has no samples files beside it; evaluate with --log_samples")
        return StoredRun(path, tuple(results.samples_paths.values()), results)
    date, separator, _ = path.name.partition("_samples_")
    beside = path.with_name(f"{date}{_RESULTS}")
    results_beside = read_results(beside) if separator and beside.is_file() else None
    return StoredRun(path, (path,), results_beside)


def _find_in_folder(folder: Path) -> StoredRun:
    # By name first: dates sort, and copying a folder changes the files' times.
    found = sorted(folder.rglob(f"*{_RESULTS}"), key=lambda file: (file.name, file.stat().st_mtime), reverse=True)
    for file in found:
        results = read_results(file)
        if results.samples_paths:
            return StoredRun(folder, tuple(results.samples_paths.values()), results)
    own = folder / "samples.jsonl"
    if own.is_file():
        return StoredRun(folder, (own,))
    samples = sorted(folder.glob("*_samples_*.jsonl"))
    if len({file.name.partition("_samples_")[0] for file in samples}) == 1:
        return StoredRun(folder, tuple(samples))
    raise UsageError(
        f"the folder {str(folder)!r} has no results with samples, or samples of several runs; evaluate with "
        "--log_samples, or name the samples file"
    )
