"""A model plug-in and its task, cheap enough for hundreds of jobs: real worker processes, no weights.

Every worker leaves evidence in the folder that its job names: which slot it held, and what it was asked.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval_grpc.engine.models.entry import REQUIRED, LoadSettings, ModelArgument, ModelEntry
from lmms_eval_grpc.engine.models.protocol import Answer, Capabilities, GenerationRequest, GenerationResponse

BATCH = 2
WORDS = tuple(f"word {number}" for number in range(40))

ENTRY = ModelEntry(
    "fault_echo",
    "Says what it was told in capital letters.",
    "tests.faults.echo_model:Echo",
    {
        "job": ModelArgument(str, REQUIRED, "Whose evidence this is."),
        "evidence": ModelArgument(str, REQUIRED, "Folder for it."),
        "seconds": ModelArgument(float, 0.0, "What every batch takes."),
        "slots": ModelArgument(int, 1, "How many workers may run at once."),
    },
    requires=(),
)

TASK = """
task: fault_words
class: !function fault_words.Words
test_split: test
output_type: generate_until
generation_kwargs: {max_new_tokens: 8}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata: [{version: 1.0}]
"""
TASK_CODE = """
from datasets import Dataset
from tests.faults.echo_model import WORDS


class Words:
    def __init__(self):
        rows = [{"word": word, "answer": word.upper() if n % 3 else "?"} for n, word in enumerate(WORDS)]
        self.dataset = {"test": Dataset.from_list(rows)}

    def doc_to_text(self, doc):
        return doc["word"]

    def doc_to_target(self, doc):
        return doc["answer"]
"""

FEW_IMPORTS = """
# Run by every Python process of the suite: its template imports what this plug-in's jobs need, in a third of the time.
from lmms_eval_grpc.engine.models import preload

preload._LIBRARIES = ("torch", "datasets", "pandas", "pyarrow.parquet", "lmms_eval_grpc.engine.run.evaluate")
preload._family_modules = lambda: iter(())
preload._prepare_conversions = lambda: None

from lmms_eval_grpc.executors import template_process

template_process.IMPORT_TIMEOUT = 60.0
"""


def score(samples: int) -> float:
    """The exact match of the first so many documents."""
    return sum(1 for number in range(samples) if number % 3) / samples


def install(folder: Path) -> dict[str, str]:
    """Installs the plug-in and writes the task below ``folder``; returns what a server's environment needs for it."""
    info = folder / "site" / "fault_echo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fault-echo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lmms_eval_grpc.models]\nfault_echo = tests.faults.echo_model:ENTRY\n")
    (info.parent / "sitecustomize.py").write_text(FEW_IMPORTS)
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "fault_words.yaml").write_text(TASK)
    (tasks / "fault_words.py").write_text(TASK_CODE)
    root = Path(__file__).parents[2]
    paths = [str(info.parent), str(root), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Echo:
    """Holds a slot, like a model its device, for as long as its process lives."""

    def __init__(self, entry: ModelEntry, values: Mapping[str, Any], settings: LoadSettings) -> None:
        self.capabilities = Capabilities()
        self.identity = {"backend": "fault_echo"}
        self._job = values["job"]
        self._seconds = values["seconds"]
        self._evidence = Path(values["evidence"])
        self._take_slot(values["slots"])

    def _take_slot(self, slots: int) -> None:
        for slot in range(slots):
            descriptor = os.open(self._evidence / f"slot-{slot}", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                self._descriptor = descriptor
                return self._note("slot", slot=slot)
        self._note("no slot")
        raise RuntimeError(f"there is a worker on each of {slots} slots already")

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Answer]]:
        for start in range(0, len(requests), BATCH):
            batch = range(start, min(start + BATCH, len(requests)))
            texts = ["".join(item["text"] for item in requests[index].messages[-1]["content"]) for index in batch]
            self._note("asked", words=texts)
            time.sleep(self._seconds)
            yield [
                Answer(index, GenerationResponse(text.upper(), 2, 2)) for index, text in zip(batch, texts, strict=True)
            ]

    def loglikelihood(self, requests: Any) -> Iterator[list[Answer]]:
        raise NotImplementedError

    def close(self) -> None:
        """The slot is let go by the end of the process, as a device's memory is."""

    def _note(self, what: str, **more: object) -> None:
        line = json.dumps({"job": self._job, "pid": os.getpid(), "what": what, **more}) + "\n"
        with (self._evidence / "evidence.jsonl").open("ab", buffering=0) as file:
            file.write(line.encode())
