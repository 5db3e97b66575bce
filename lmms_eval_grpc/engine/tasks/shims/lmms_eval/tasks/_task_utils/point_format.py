"""``lmms_eval.tasks._task_utils.point_format``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_NUMBER = r"([-+]?\d+\.?\d*)"
_POINT = re.compile(rf"[\[(]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[\])]")


def parse_point2d(text: str, width: int, height: int) -> Any:
    """Points ``[x, y]`` or ``(x, y)`` in ``text`` as pixels, (points, 2).

    Whole numbers are thousandths of the picture's size; a pair with a decimal point has shares of it.
    """
    points = []
    for x, y in _POINT.findall(text):
        scale = 1 if "." in x + y else 1000
        points.append((int(float(x) / scale * width), int(float(y) / scale * height)))
    return np.array(points)
