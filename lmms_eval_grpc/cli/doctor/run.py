"""All checks of a set-up, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from lmms_eval_grpc.cli.doctor import (
    access,
    certificates,
    configuration,
    devices,
    evaluation,
    hub,
    machine,
    network,
    packages,
    storage,
)
from lmms_eval_grpc.cli.doctor.finding import Finding, failure
from lmms_eval_grpc.cli.doctor.setup import Setup

Check = Callable[[Setup], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    configuration.check_combination,
    packages.check_python,
    packages.check_packages,
    packages.check_generated_code,
    packages.check_extras,
    packages.check_media,
    devices.check_devices,
    machine.check_memory,
    machine.check_shared_memory,
    machine.check_open_files,
    machine.check_clock,
    storage.check_state_dir,
    storage.check_lock,
    storage.check_store,
    network.check_port,
    certificates.check_certificates,
    access.check_access,
    access.check_roots,
    evaluation.check_tasks,
    evaluation.check_trackers,
    hub.check_hub,
)

_AT_ONCE = 4
"""Some wait: for a process that imports torch, for the hub."""


def check_setup(setup: Setup) -> Iterator[Finding]:
    """What every check finds, as soon as it and those before it are done."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="doctor") as pool:
        for under_way in [pool.submit(_guarded, check, setup) for check in CHECKS]:
            yield from under_way.result()


def _guarded(check: Check, setup: Setup) -> list[Finding]:
    """What a check finds; that it cannot be made is a finding too, and no reason to leave out the others."""
    findings: list[Finding] = []
    try:
        findings.extend(check(setup))
    except Exception as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        remedy = "see the other lines: something that this check needs is missing or broken"
        findings.append(failure(name, f"could not be checked: {type(error).__name__}: {error}", remedy))
    return findings
