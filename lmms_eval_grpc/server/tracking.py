"""Which trackers can be told of jobs here: what a server was started with, and what requests ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lmms_eval_grpc.jobs.errors import Violation
from lmms_eval_grpc.server.folders import check_folder
from lmms_eval_grpc.server.state_dir import ServerStartError
from lmms_eval_grpc.trackers.names import PACKAGES, TrackerNameError, parse_tracker


def check_trackers(texts: Sequence[str], field: str) -> Iterator[Violation]:
    """What is wrong with the trackers in ``field``."""
    for index, text in enumerate(texts):
        place = f"{field}[{index}]"
        try:
            name = parse_tracker(text)
        except TrackerNameError as error:
            yield Violation(place, str(error))
            continue
        if name.missing_package is not None:
            known = ", ".join(kind for kind, package in PACKAGES.items() if package != name.missing_package)
            yield Violation(
                place,
                f"{text!r} needs the package {name.missing_package}, which is not installed on the server; install it"
                f" there, or use another tracker ({known})",
            )
        elif name.kind == "tensorboard":
            yield from check_folder(name.target, place)


def check_own_trackers(texts: Sequence[str]) -> None:
    """Raises ServerStartError where a setting names a tracker that cannot be told."""
    problems = [f"{violation.field}: {violation.description}" for violation in check_trackers(texts, "track")]
    if problems:
        raise ServerStartError("; ".join(problems))
