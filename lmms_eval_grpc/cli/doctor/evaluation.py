"""What is to be evaluated: the index of tasks, and who is told of the results."""

from __future__ import annotations

from collections.abc import Iterator

from lmms_eval_grpc.cli.doctor.finding import Finding, failure, ok, warning
from lmms_eval_grpc.cli.doctor.setup import Setup

_SHOWN = 20


def check_tasks(setup: Setup) -> Iterator[Finding]:
    """Whether every task file can be used."""
    from lmms_eval_grpc.engine.tasks.index import TaskIndex

    folders = []
    for folder in setup.args.include_path:
        if folder.is_dir():
            folders.append(folder)
        else:
            yield failure("tasks", f"include_path: {folder} is not a folder", "mend the path, or leave it out")
    index = TaskIndex.open(folders)
    yield ok("tasks", f"{len(index.entries())} tasks, groups and tags")
    problems = index.problems()
    for problem in problems[:_SHOWN]:
        yield warning("tasks", str(problem), "mend the file; its tasks are not offered")
    if len(problems) > _SHOWN:
        yield warning("tasks", f"and {len(problems) - _SHOWN} more files that cannot be used", "mend them")


def check_trackers(setup: Setup) -> Iterator[Finding]:
    """Whether the trackers that the settings name can be told of results."""
    from lmms_eval_grpc.server import tracking

    violations = list(tracking.check_trackers(setup.args.track, "track"))
    for violation in violations:
        yield failure("trackers", f"{violation.field}: {violation.description}", "correct the setting track")
    if not violations:
        yield ok("trackers", ", ".join(setup.args.track) or "none is set")
