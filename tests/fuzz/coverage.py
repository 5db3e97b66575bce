"""Coverage-guided inputs for one reader: ``python -m tests.fuzz.coverage TARGET --seconds N``.

Begins with the reader's corpus. An input that breaks something is kept in ``corpus/TARGET``, where the tests find it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

MOST_BYTES = 4096


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    # What is imported here is instrumented, so that atheris sees which code an input reaches.
    with atheris.instrument_imports(include=["lmms_eval_grpc", "yaml", "tomllib", "json"]):
        from tests.fuzz import targets

    if arguments.target not in targets.READERS:
        parser.error(f"{arguments.target!r} is none of {', '.join(targets.READERS)}")
    reader = targets.READERS[arguments.target]
    count = 0

    def one(data: bytes) -> None:
        nonlocal count
        count += 1
        try:
            reader(data)
        except BaseException:
            folder = targets.CORPUS / arguments.target
            folder.mkdir(parents=True, exist_ok=True)
            found = folder / f"found-{hashlib.sha256(data).hexdigest()[:10]}"
            found.write_bytes(data)
            print(f"kept as {found}", file=sys.stderr)
            raise

    folder = Path(tempfile.mkdtemp())
    words: list[Any] = [sys.argv[0], f"-max_total_time={arguments.seconds}", f"-seed={arguments.seed}"]
    words += [
        f"-max_len={MOST_BYTES}",
        f"-artifact_prefix={folder}/",
        "-timeout=60",
        "-print_final_stats=0",
        "-verbosity=0",
    ]
    words += [str(folder)]
    if (corpus := targets.CORPUS / arguments.target).is_dir():
        words.append(str(corpus))
    # libFuzzer ends the process by itself: what is said at the end is said by whoever waits for it.
    if (child := os.fork()) == 0:
        atheris.Setup(words, one)
        atheris.Fuzz()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    inputs = sum(1 for _ in folder.iterdir())
    print(f"{arguments.target}: {inputs} inputs that reached something new, in {arguments.seconds} s")
    raise SystemExit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
