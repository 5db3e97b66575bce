"""The example training run: what it holds out, and what its callbacks find at every save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

import tests.support.checkpoints  # noqa: F401  (puts the example clients on the path)


def test_every_save_is_a_whole_checkpoint_when_callbacks_hear_of_it(tmp_path: Path) -> None:
    import train_digits

    seen: list[int] = []

    class LoadAtSave(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            AutoModelForImageTextToText.from_pretrained(folder)
            assert AutoProcessor.from_pretrained(folder).chat_template
            seen.append(state.global_step)

    paths = train_digits.train(tmp_path, steps=4, save_steps=(0, 2, 4, 300), callbacks=[LoadAtSave()])
    assert seen == [0, 2, 4]
    assert [path.name for path in paths] == ["checkpoint-0", "checkpoint-2", "checkpoint-4"]


def test_no_evaluated_digit_is_trained_on() -> None:
    import train_digits

    held_out = train_digits.held_out_indices()
    training, validation = train_digits.split_indices(seed=3)
    assert len(held_out) == 360
    assert not held_out & {*training, *validation}
    assert not {*training} & {*validation}
    assert len(held_out) + len(training) + len(validation) == 1797
