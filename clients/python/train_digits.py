"""Trains the tiny vision-language model to read handwritten digits, saving a checkpoint every now and then.

It stands in for a real training run: a Hugging Face ``Trainer`` with ordinary callbacks, ordinary checkpoints and a
model whose score rises from nothing to above 0.9 within half a minute on one CPU thread. The images come from
scikit-learn; those of the ``handwritten_digits`` task are left out, so that its scores are scores on unseen images.

    python clients/python/train_digits.py --output-dir digits-run
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from tiny_vlm import build_model, build_processor

QUESTION = "What digit is shown? Answer with one digit."
VALIDATION_SIZE = 200
BATCH_SIZE = 48
IGNORED_LABEL = -100


def held_out_indices() -> frozenset[int]:
    """Rows of ``load_digits`` that the ``handwritten_digits`` task evaluates on."""
    resource = files("lmms_eval_grpc.benchmarks") / "handwritten_digits" / "test.parquet"
    with as_file(resource) as path:
        return frozenset(pyarrow.parquet.read_table(path, columns=["index"])["index"].to_pylist())


def split_indices(seed: int) -> tuple[list[int], list[int]]:
    """Rows to train and to validate on, shuffled; neither holds any of :func:`held_out_indices`."""
    held_out = held_out_indices()
    free = [index for index in range(len(load_digits().target)) if index not in held_out]
    order = np.random.RandomState(seed).permutation(free).tolist()
    return order[VALIDATION_SIZE:], order[:VALIDATION_SIZE]


class DigitsDataset(Dataset[dict[str, torch.Tensor]]):
    """Prompt, image and answer per digit, tokenized once: all prompts have the same length, so nothing is padded."""

    def __init__(self, processor: ProcessorMixin, indices: Sequence[int]) -> None:
        digits = load_digits()
        self.inputs = processor(
            text=[_render(processor, str(digits.target[index])) for index in indices],
            images=[[_to_image(digits.images[index])] for index in indices],
            return_tensors="pt",
        )
        # Only the answer and the end mark after it are learned; the question is given.
        labels = torch.full_like(self.inputs["input_ids"], IGNORED_LABEL)
        answer = slice(-3, -1)  # answer, end mark, line break
        labels[:, answer] = self.inputs["input_ids"][:, answer]
        self.inputs["labels"] = labels

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in self.inputs.items()}


def _render(processor: ProcessorMixin, answer: str) -> str:
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    prompt: str = processor.apply_chat_template([question], add_generation_prompt=True)
    full: str = processor.apply_chat_template([question, reply])
    assert full.startswith(prompt), "the chat template must end a prompt exactly where the answer begins"
    return full


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).convert("RGB")


class SaveAtSteps(TrainerCallback):
    """Saves and evaluates at a list of steps, step 0 (the untrained model) included."""

    def __init__(self, steps: Iterable[int]) -> None:
        self.steps = frozenset(steps)
        self.trainer: Trainer | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The Trainer itself never saves before the first step.
        if 0 in self.steps and self.trainer is not None:
            self.trainer.save_model(str(Path(args.output_dir) / "checkpoint-0"))
            self.trainer.callback_handler.on_save(args, state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step in self.steps:
            control.should_save = True
            control.should_evaluate = True


def train(
    output_dir: Path,
    *,
    steps: int = 300,
    save_steps: Iterable[int] = (0, 75, 100, 150, 200, 300),
    seed: int = 0,
    callbacks: Sequence[TrainerCallback] = (),
    quiet: bool = False,
) -> list[Path]:
    """Trains from scratch and returns the checkpoints' folders (``output_dir/checkpoint-<step>``), oldest first.

    ``callbacks`` see every save as usual: in ``on_save`` all files that are needed to load the checkpoint are there.
    ``quiet`` keeps the Trainer's own lines off the terminal.
    """
    set_seed(seed)
    torch.set_num_threads(1)
    wanted = sorted({step for step in save_steps if step <= steps})
    processor = build_processor()
    training, validation = split_indices(seed)
    save_at = SaveAtSteps(wanted)
    trainer = Trainer(
        model=build_model(processor),
        args=TrainingArguments(
            output_dir=str(output_dir),
            max_steps=steps,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=VALIDATION_SIZE,
            learning_rate=4e-3,
            lr_scheduler_type="cosine",
            warmup_steps=20,
            weight_decay=0.05,
            max_grad_norm=1.0,
            save_strategy="no",
            save_only_model=True,
            eval_strategy="no",
            logging_steps=25,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
        ),
        train_dataset=DigitsDataset(processor, training),
        eval_dataset=DigitsDataset(processor, validation),
        processing_class=processor,
        callbacks=[*callbacks, save_at],
    )
    save_at.trainer = trainer
    if quiet:
        trainer.remove_callback(PrinterCallback)
        disable_progress_bar()
    trainer.train()
    return [output_dir / f"checkpoint-{step}" for step in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for checkpoint in train(arguments.output_dir, steps=arguments.steps, seed=arguments.seed):
        print(checkpoint)


if __name__ == "__main__":
    main()
