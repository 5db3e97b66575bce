"""17. Automatic messages: for each kind of visual what lmms-eval's chat tasks make of it.

``golden_messages.json`` holds what lmms-eval 0.7.3 made; ``PIL`` stands for an image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lmms_eval_grpc.engine.tasks import messages

GOLDEN = json.loads(Path(__file__).with_name("golden_messages.json").read_text())
PICTURE = Image.new("L", (2, 2))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["visuals"]))
def test_automatic_messages_are_lmms_evals(case: dict[str, Any]) -> None:
    visuals = [PICTURE if visual == "PIL" else visual for visual in case["visuals"]]
    turn = messages.user_turn(visuals, "q0")
    assert json.loads(json.dumps([turn], default=lambda value: "PIL")) == case["messages"]


def test_decoded_audio_is_audio() -> None:
    """lmms-eval calls it a video, which no model can read."""
    sound = {"array": [0.0], "sampling_rate": 16000, "path": None}
    assert messages.visual_item(sound) == {"type": "audio", "url": sound}
