"""Where ``eval`` keeps a run that was interrupted, and which flags may change before it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.cli.run_folder import run_folder
from lmms_eval_grpc.engine.api import EvaluationConfig

GOES_ON = [{"max_error_share": 0.5}, {"max_tokens": 9}, {"baseline": "x"}, {"batch_size": 8}, {"use_cache": Path("c")}]
BEGINS_ANEW = [{"limit": 9}, {"seed": (1, 1, 1, 1)}, {"gen_kwargs": {"do_sample": True}}, {"predict_only": True}]


@pytest.mark.parametrize("changes", GOES_ON + BEGINS_ANEW)
def test_an_interrupted_run_is_found_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = EvaluationConfig("idefics3", ("toy",), output_dir=tmp_path)
    places = []

    def interrupt() -> None:
        with run_folder(config) as place:
            (place / "run_log.jsonl").touch()
            places.append(place)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    (interrupted,) = places
    with run_folder(replace(config, **changes)) as again:
        assert (again == interrupted) == (changes in GOES_ON)
    assert interrupted.exists() == (changes in BEGINS_ANEW)


def test_a_run_that_failed_before_anything_was_answered_leaves_nothing(tmp_path: Path) -> None:
    config = EvaluationConfig("idefics3", ("toy",), output_dir=tmp_path)
    with pytest.raises(RuntimeError), run_folder(config):
        raise RuntimeError("no such data")
    assert list(tmp_path.iterdir()) == []
