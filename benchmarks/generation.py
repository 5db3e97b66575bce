"""The generation stage of the engine against a hand-written loop at its best batch size, over the same samples.

Both answer the first samples of the shipped ``handwritten_digits`` task, greedily, exactly ``--tokens`` tokens each,
with one model that is loaded once. The loop is what one would write by hand: documents in order, one call of the
processor and one of ``generate`` per batch, no stop strings, nothing recorded; its best batch size is found first. The
engine chooses its batch size itself, honours the task's stop strings, and forces every batch to disk. Loop and engine
take turns; the ratio is the median over the pairs. Wall seconds, and CPU seconds of all threads.

    python benchmarks/generation.py --family idefics3 --pairs 7
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from transformers import AutoConfig, AutoModelForImageTextToText

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lmms_eval_grpc.engine.api import EvaluationConfig
from lmms_eval_grpc.engine.models import registry
from lmms_eval_grpc.engine.models.huggingface.backend import HuggingFaceBackend
from lmms_eval_grpc.engine.run.answers import ask
from lmms_eval_grpc.engine.run.log import AnswerKey, RunLog
from lmms_eval_grpc.engine.tasks.load import load
from lmms_eval_grpc.engine.tasks.task import Task
from tests.support.checkpoints import SEEING, build_checkpoint, small_args

LOOP_BATCH_SIZES = (8, 16, 32, 64, 128, 300)
QUESTION = "What digit is shown? Answer with one digit."
STOP = "\n\n"
"""What the task ends answers at; the loop cuts its texts there, only to compare them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=SEEING, default="idefics3", help="default: %(default)s")
    parser.add_argument("--hidden", type=int, help="width of the text tower (default: the tiny checkpoint's)")
    parser.add_argument("--layers", type=int, default=4, help="its depth, where --hidden is given")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments)
    print(json.dumps({name: value for name, value in figures.items() if name != "pairs"}, indent=1))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    checkpoint = build_checkpoint(arguments.family, folder / "checkpoint")
    if arguments.hidden:
        widen(checkpoint, arguments.hidden, arguments.layers)
    # The loop's prompts have no system message.
    model_args = {"pretrained": str(checkpoint), "system_prompt": None, **small_args(arguments.family)}
    backend = registry.create(arguments.family, model_args, device="cpu")
    assert isinstance(backend, HuggingFaceBackend)
    documents = read_documents(arguments.samples, folder)
    config = EvaluationConfig(
        model=arguments.family,
        model_args=model_args,
        tasks=("handwritten_digits",),
        limit=arguments.samples,
        gen_kwargs={"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens},
    )
    (task,) = load(config).tasks

    def loop(size: int) -> list[str]:
        return answer_by_hand(backend, documents, size, arguments.tokens)

    # By CPU time: on a machine with other work to do, wall time would choose at random.
    sweep = {size: min(timed(lambda size=size: loop(size))[2] for _ in range(2)) for size in LOOP_BATCH_SIZES}
    best = min(sweep, key=lambda size: sweep[size])
    pairs: list[dict[str, float]] = []
    for number in range(arguments.pairs + 1):
        texts, loop_wall, loop_cpu = timed(lambda: loop(best))
        log = folder / f"run-{number}.jsonl"
        (answers, sizes), engine_wall, engine_cpu = timed(
            lambda log=log: answer_by_engine(backend, task, arguments.samples, log)
        )
        if answers != [text.partition(STOP)[0] for text in texts]:
            raise SystemExit("the engine's answers are not the loop's")
        pairs.append(
            {
                "loop_wall": loop_wall,
                "loop_cpu": loop_cpu,
                "engine_wall": engine_wall,
                "engine_cpu": engine_cpu,
                "ratio": engine_wall / loop_wall,
                "cpu_ratio": engine_cpu / loop_cpu,
            }
        )
    pairs = pairs[1:]  # the first warms up
    return {
        "what": f"{arguments.samples} digits, {arguments.tokens} new tokens, {arguments.family} of random weights",
        "unit": "seconds",
        "parameters": sum(parameter.numel() for parameter in backend.model.parameters()),
        "loop_cpu_seconds_by_batch_size": sweep,
        "loop_batch_size": best,
        "engine_batch_sizes": sizes,
        "median": {name: statistics.median(pair[name] for pair in pairs) for name in pairs[0]},
        "least_and_most": {name: [min(p[name] for p in pairs), max(p[name] for p in pairs)] for name in pairs[0]},
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "pairs": pairs,
    }


def widen(checkpoint: Path, hidden: int, layers: int) -> None:
    """Puts a model with a larger text tower into the folder, of random weights too."""
    config = AutoConfig.from_pretrained(checkpoint)
    text = config.text_config
    text.num_attention_heads = hidden // (text.hidden_size // text.num_attention_heads)
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, 3 * hidden, layers
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[0]] * layers
    if hasattr(config.vision_config, "out_hidden_size"):
        config.vision_config.out_hidden_size = hidden
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(checkpoint)


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, wall seconds and CPU seconds of all threads of this process."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def answer_by_engine(backend: HuggingFaceBackend, task: Task, limit: int, log: Path) -> tuple[list[str], list[int]]:
    """The generation stage as the engine runs it, without the scoring in between: texts, and sizes of the batches."""
    keys = [AnswerKey(task.identity, doc_id, 0) for doc_id in task.doc_ids(limit, 0)]
    texts: dict[int, str] = {}
    sizes: list[int] = []
    with RunLog(log, {}) as run_log:
        for answers in ask(backend, task, keys, threading.Lock(), {}):
            run_log.record_answers([(keys[answer.index], answer.response) for answer in answers], task.name)
            texts |= {answer.index: answer.response.text for answer in answers}
            sizes.append(len(answers))
    return [texts[index] for index in range(len(keys))], sizes


def read_documents(count: int, cache: Path) -> Dataset:
    """The task's documents as ``datasets`` loads them, which decodes an image when it is asked for."""
    resource = files("lmms_eval_grpc.benchmarks") / "handwritten_digits" / "test.parquet"
    with as_file(resource) as path:
        return load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(cache)).select(range(count))


@torch.inference_mode()
def answer_by_hand(backend: HuggingFaceBackend, documents: Dataset, size: int, tokens: int) -> list[str]:
    model, processor = backend.model, backend.processor
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    texts: list[str] = []
    for start in range(0, len(documents), size):
        images = [image.convert("RGB") for image in documents[start : start + size]["image"]]
        prompts = [
            processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            for _ in images
        ]
        bos = processor.tokenizer.bos_token
        inputs = processor(
            text=prompts,
            images=[[image] for image in images],
            padding=True,
            padding_side="left",
            add_special_tokens=not (bos and prompts[0].startswith(bos)),
            return_tensors="pt",
        )
        output = model.generate(
            **inputs,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        texts += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


if __name__ == "__main__":
    main()
