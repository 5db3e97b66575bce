"""A run of any length, with its figures as JSON: ``scripts/fuzz --requests 200000``."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import tempfile
from pathlib import Path

from tests.fuzz.driver import Driver
from tests.fuzz.target import Target


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000, help="requests to send (default: 200000)")
    parser.add_argument("--seconds", type=float, help="stop after this time instead")
    parser.add_argument("--seed", type=int, help="default: a random one, which is printed")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, beside printing them")
    parser.add_argument("--guarded", action="store_true", help="a server that asks who calls, with bounds and limits")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    with tempfile.TemporaryDirectory() as folder, Target(Path(folder), guarded=arguments.guarded) as target:
        wanted = {"seconds": arguments.seconds} if arguments.seconds else {"requests": arguments.requests}
        report = asyncio.run(Driver(target, seed).run(**wanted))
        log = target.log.read_text(errors="replace")
    figures = json.dumps(report.plain(), indent=1)
    print(figures)
    if arguments.output:
        arguments.output.write_text(figures + "\n")
    if report.logged_tracebacks:
        place = log.find("Traceback (most recent call last)")
        print(log[max(0, place - 300) : place + 6_000])
    return 1 if report.problems or report.logged_tracebacks else 0


if __name__ == "__main__":
    raise SystemExit(main())
