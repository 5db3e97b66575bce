"""What both systems are given: data, tasks, and a checkpoint, made afresh in a folder of the run.

The documents are scikit-learn's handwritten digits, as the shipped task has them, repeated where more are wanted. The
checkpoint is a Qwen2.5-VL of 3.7 million random weights in bfloat16, saved by transformers 4, which both can read.
"""

from __future__ import annotations

import io
import subprocess
import textwrap
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / ".venv-lmms-eval" / "bin" / "python"
"""Python of the environment that has lmms-eval."""

MODEL_ARGS = {"device_map": "cpu", "min_pixels": 3136, "max_pixels": 50176}
MODEL = "qwen2_5_vl"
QUESTION = "What digit is shown? Answer with one digit."
TOKENS = 16
"""New tokens of each answer: the model has random weights and rarely ends one by itself."""
SAMPLES = 300

TASK = "bench_digits"
SECOND_TASK = "bench_digits_again"
MIXED_TASK = "bench_mixed_lengths"
COSTLY_TASK = "bench_large_images"
MANY_TASK = "bench_many"

SCORING_TASK = "bench_scoring"
SCORING_SAMPLES = 100_000
SCORING_REPLICATES = 10_000

MANY = 20_000
LARGE_SIDE = 1_600
"""Pixels of a side of the large images, a JPEG each."""


@dataclass(frozen=True)
class Inputs:
    """Where the made things lie."""

    tasks: Path
    checkpoint: Path

    @property
    def model_args(self) -> dict[str, object]:
        return {"pretrained": str(self.checkpoint), **MODEL_ARGS}


def make_inputs(folder: Path) -> Inputs:
    """Makes them in ``folder``; some seconds."""
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    digits = _digits()
    _write(tasks / "digits.parquet", digits[:SAMPLES])
    _write(tasks / "many.parquet", [digits[index % len(digits)] for index in range(MANY)])
    _write(tasks / "large.parquet", [(_large(image), label) for image, label in digits[:SAMPLES]])
    numbers = pa.table({"question": [f"What is {n} modulo 10?" for n in range(SCORING_SAMPLES)]})
    pq.write_table(numbers, tasks / "numbers.parquet")
    (tasks / f"{SCORING_TASK}.yaml").write_text(_SCORING.format(data=tasks / "numbers.parquet"))
    (tasks / "bench_utils.py").write_text(_FUNCTIONS)
    _task(tasks, TASK, "digits", "doc_to_text")
    _task(tasks, SECOND_TASK, "digits", "doc_to_text")
    _task(tasks, MIXED_TASK, "digits", "doc_to_mixed_text")
    _task(tasks, COSTLY_TASK, "large", "doc_to_text")
    _task(tasks, MANY_TASK, "many", "doc_to_text")
    make_checkpoints(folder / "checkpoints", 1)
    return Inputs(tasks, folder / "checkpoints" / "step-000")


def make_checkpoints(folder: Path, count: int) -> None:
    """Saves that many models, of other weights each, into folders below ``folder``, by transformers 4, which is what
    lmms-eval runs with."""
    maker = Path(__file__).with_name("checkpoint.py")
    folders = [folder / f"step-{number:03}" for number in range(count)]
    subprocess.run([REFERENCE, maker, *folders], check=True, capture_output=True)


def _digits() -> list[tuple[bytes, int]]:
    with as_file(files("lmms_eval_grpc.benchmarks") / "handwritten_digits" / "test.parquet") as path:
        table = pq.read_table(path)
    images = [image["bytes"] for image in table.column("image").to_pylist()]
    return list(zip(images, table.column("label").to_pylist(), strict=True))


def _large(png: bytes) -> bytes:
    """The same picture as a JPEG that takes some ten milliseconds to decode."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").resize((LARGE_SIDE, LARGE_SIDE)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _write(path: Path, rows: list[tuple[bytes, int]]) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([{"bytes": data, "path": None} for data, _ in rows], image),
            "label": pa.array([label for _, label in rows], pa.int64()),
            "index": pa.array(range(len(rows)), pa.int64()),
        }
    )
    features = (
        '{"info": {"features": {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"},'
        ' "index": {"dtype": "int64", "_type": "Value"}}}}'
    )
    pq.write_table(table.replace_schema_metadata({b"huggingface": features.encode()}), path, row_group_size=1000)


def _task(folder: Path, name: str, data: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(
        textwrap.dedent(f"""\
            task: {name}
            dataset_path: parquet
            dataset_kwargs:
              data_files:
                test: {folder / data}.parquet
            test_split: test
            output_type: generate_until
            doc_to_visual: !function bench_utils.doc_to_visual
            doc_to_text: !function bench_utils.{text}
            doc_to_target: !function bench_utils.doc_to_target
            generation_kwargs:
              max_new_tokens: {TOKENS}
              do_sample: false
              until: ["<|im_end|>"]  # not a blank line, the default, which lmms-eval's chat models do not heed
            metric_list:
              - metric: exact_match
                aggregation: mean
                higher_is_better: true
                ignore_case: true
                ignore_punctuation: true
            metadata:
              version: 1.0
            """)
    )


_SCORING = f"""\
task: {SCORING_TASK}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {{data}}
test_split: test
output_type: generate_until
doc_to_visual: !function bench_utils.no_visual
doc_to_text: "{{{{{{{{question}}}}}}}}"
doc_to_target: "7"
process_results: !function bench_utils.process_number
generation_kwargs:
  max_new_tokens: 16
filter_list:
  - name: number
    filter:
      - function: regex
        regex_pattern: "([0-9]+)"
      - function: take_first
metric_list:
  - metric: correct
    aggregation: mean
    higher_is_better: true
  - metric: percent
    aggregation: !function bench_utils.percent
    higher_is_better: true
metadata:
  version: 1.0
"""

_FUNCTIONS = f'''"""Document functions of the benchmark's tasks."""

QUESTION = "{QUESTION}"


def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return QUESTION


def doc_to_mixed_text(doc, lmms_eval_specific_kwargs=None):
    """Every second prompt is eight times as long."""
    return QUESTION if doc["index"] % 2 else " ".join([QUESTION] * 8)


def doc_to_target(doc):
    return str(doc["label"])


def no_visual(doc):
    return []


def process_number(doc, results):
    said = results[0] if isinstance(results[0], str) else results[0][0]
    correct = float(said == doc["question"].split()[2][-1])
    return {{"correct": correct, "percent": correct}}


def percent(items):
    return 100 * sum(items) / len(items)
'''
