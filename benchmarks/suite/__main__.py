"""Runs the cases, one after another, and writes what they found. See ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.suite import readme, report
from benchmarks.suite.bench import Bench
from benchmarks.suite.cases import CASES
from benchmarks.suite.inputs import REFERENCE, ROOT, make_inputs


def main() -> int:
    """Exit status 0: every case ended, whatever it found; 1: one did not."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="one round of small sizes; under ten minutes in all")
    parser.add_argument(
        "--results",
        type=Path,
        help="folder for JSON, table and plots; default: benchmarks/results/MACHINE/suite, from which the project's"
        " README is written then, or suite-quick beside it, which git ignores",
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    if not REFERENCE.exists():
        parser.error(f"{REFERENCE} is missing; scripts/benchmark makes it")
    kept = ROOT / "benchmarks" / "results" / f"{os.cpu_count()}-cores-{'gpu-unused' if report.gpu() else 'no-gpu'}"
    folder = arguments.results or kept / ("suite-quick" if arguments.quick else "suite")
    folder.mkdir(parents=True, exist_ok=True)
    facts = report.machine()
    failed = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        print("making the inputs", flush=True)
        bench = Bench(make_inputs(Path(temporary) / "inputs"), Path(temporary), arguments.quick)
        for name in arguments.cases or CASES:
            load, began = os.getloadavg(), time.monotonic()
            print(f"{name} (load average {load[0]:.2f})", flush=True)
            try:
                result = CASES[name](bench)
            except Exception as error:
                # One broken case must not cost the others their figures.
                print(f"{name} FAILED: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                failed.append(name)
                # Nor may its earlier figures, of other code perhaps, stand for it.
                report.forget(folder, name)
                continue
            result.load_average, result.quick = load, arguments.quick
            result.seconds = time.monotonic() - began
            report.write(folder, facts, result)
            told = report.read(folder, [name])
            report.plot(folder, told[0])
            print(report.table(told), flush=True)
    missing = [name for name in CASES if not (folder / f"{name}.json").exists()]
    (folder / "README.md").write_text(report.table(report.read(folder, list(CASES)), missing))
    if not arguments.results and not arguments.quick:
        readme.update(folder)
    print(f"written to {folder}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
