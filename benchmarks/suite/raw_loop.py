"""A loop as one would write it by hand around ``generate``, in a process of its own that holds the model.

    python -m benchmarks.suite.raw_loop CHECKPOINT DATA

The process reads lines of JSON, ``{"tasks": [NAME, …], "batch_size": N, "samples": N}``, and answers each with the wall
and CPU seconds that the samples took, and how many tokens their prompts had. Documents in order, one call of the
processor and one of ``generate`` for each batch; nothing is recorded or scored.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.suite.processes import Failed, environment, stop, tail

BATCH_SIZES = (32, 64, 128, 300)
"""Of smaller ones none was best for any of the tasks."""


class Loop:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[str], quick: bool, log: Path) -> None:
        self._process = process
        self._log = log
        self._quick = quick
        self._best: dict[tuple[str, ...], int] = {}
        self.prompt_tokens = 0
        """Of the last run; whoever is compared with it must have read as many."""

    @classmethod
    @contextmanager
    def start(cls, bench: Any) -> Iterator[Loop]:
        """Returns when the model is loaded."""
        from benchmarks.suite.inputs import ROOT

        folder = bench.new_folder()
        command = [sys.executable, "-m", "benchmarks.suite.raw_loop", bench.inputs.checkpoint, bench.inputs.tasks]
        with (folder / "loop.log").open("w") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=environment(folder),
            )
        try:
            loop = cls(process, bench.quick, folder / "loop.log")
            loop._hear()
            yield loop
        finally:
            stop(process)  # type: ignore[arg-type]

    def run(self, tasks: Sequence[str], batch_size: int, samples: int = 300) -> tuple[float, float]:
        """Wall and CPU seconds for the first documents of each task."""
        assert self._process.stdin is not None
        order = {"tasks": list(tasks), "batch_size": batch_size, "samples": samples}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        wall, cpu, self.prompt_tokens = self._hear()
        return wall, cpu

    def best_batch_size(self, tasks: Sequence[str]) -> int:
        """That of the least CPU time: on a busy machine wall time would choose by chance. A quick run takes the
        largest, which on two cores is always among the best."""
        if self._quick:
            return BATCH_SIZES[-1]
        key = tuple(tasks)
        if key not in self._best:
            self.run(tasks, 64)
            cost = {size: self.run(tasks, size)[1] for size in BATCH_SIZES}
            self._best[key] = min(BATCH_SIZES, key=lambda size: cost[size])
        return self._best[key]

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the loop's process ended with status {self._process.wait()}: {tail(self._log)}")
        return json.loads(line)


def main() -> None:
    checkpoint, tasks = sys.argv[1:]
    import torch
    from datasets import load_dataset

    from benchmarks.suite.inputs import COSTLY_TASK, MANY_TASK, MIXED_TASK, MODEL, MODEL_ARGS, QUESTION, TOKENS
    from lmms_eval_grpc.engine.models import registry
    from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend

    torch.set_num_threads(1)
    # Loaded by the engine's backend, which knows how a processor is had without torchvision; then it is left alone.
    backend = registry.create(MODEL, {"pretrained": checkpoint, **MODEL_ARGS}, device="cpu")
    assert isinstance(backend, HuggingFaceBackend)
    model, processor = backend.model, backend.processor
    processor.tokenizer.padding_side = "left"
    data = {
        name: load_dataset("parquet", data_files=str(Path(tasks) / f"{name}.parquet"), split="train")
        for name in ("digits", "large", "many")
    }

    def prompt(task: str, index: int) -> str:
        text = " ".join([QUESTION] * 8) if task == MIXED_TASK and index % 2 == 0 else QUESTION
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))

    @torch.inference_mode()
    def answer(task: str, size: int, samples: int) -> int:
        documents = data[{COSTLY_TASK: "large", MANY_TASK: "many"}.get(task, "digits")]
        prompt_tokens = 0
        for start in range(0, samples, size):
            stop = min(start + size, samples)
            images = [image.convert("RGB") for image in documents[start:stop]["image"]]
            prompts = [prompt(task, index) for index in range(start, stop)]
            inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt")
            output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
            processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            prompt_tokens += int(inputs["attention_mask"].sum())
        return prompt_tokens

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = sum(answer(task, order["batch_size"], order["samples"]) for task in order["tasks"])
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, tokens]), flush=True)


if __name__ == "__main__":
    main()
