"""A real Hugging Face Trainer on a few digits, and what trackers have of it, read back from their files."""

from __future__ import annotations

import functools
import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python"))

import train_digits
from lmms_eval_grpc.integrations.results import CheckpointResult
from tests.end_to_end.conftest import ServerProcess, wait_until
from tiny_vlm import build_model, build_processor

TASK = "handwritten_digits"
SCORE = f"{TASK}/exact_match"


@functools.cache
def digits() -> tuple[Any, Any]:
    """The processor, and 64 training samples."""
    processor = build_processor()
    return processor, train_digits.DigitsDataset(processor, train_digits.split_indices(0)[0][:64])


def run_trainer(folder: Path, callbacks: Sequence[TrainerCallback], **arguments: Any) -> Trainer:
    """Trains with batches of 16 and returns the Trainer; an epoch has four steps."""
    torch.set_num_threads(1)
    processor, samples = digits()
    settings = {"save_strategy": "no", "report_to": [], "save_only_model": True, **arguments}
    trainer = Trainer(
        model=build_model(processor),
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=16,
            learning_rate=4e-3,
            logging_steps=1,
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=True,
            **settings,
        ),
        train_dataset=samples,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


class Outage:
    """Kills the server of a training run that evaluates every second step of six, and brings it back at the last."""

    RESULTS = ((2, "completed"), (4, "completed"), (6, "completed"))
    """Steps and states when nothing is lost."""

    def __init__(self, server: ServerProcess, results: Callable[[], Sequence[CheckpointResult]]) -> None:
        """``results`` are those of the run's callback."""
        self._server = server
        self._results = results

    def after_submission(self, step: int) -> None:
        """To be called after each step, once what is due is handed in."""
        if step == 2:
            wait_until(lambda: bool(self._results()[0].job_id), 60, lambda: str(self._results()))
            self._server.kill()
        if step == 6:
            assert self._results()[-1].state == "submitting"
            self._server.start()


def logged(history: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    """The steps at which ``name`` is in a Trainer's log, in order."""
    return sorted(entry["step"] for entry in history if name in entry)


def read_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    """Values by name and step of all event files below ``folder``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, {}).update({point.step: point.value for point in events.Scalars(name)})
    return found


def read_wandb(folder: Path) -> list[dict[str, Any]]:
    """Every row that offline runs below ``folder`` logged."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for file in sorted(folder.rglob("run-*.wandb")):
        for data in _records(file.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after W&B's own seven bytes: blocks of 32 KiB, of pieces with a
    checksum, a length and a kind (1: whole, 2: first, 3: middle, 4: last)."""
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""
