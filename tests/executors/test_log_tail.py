"""The end of a worker's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmms_eval_grpc.executors.log_tail import MAX_BYTES, read_log_tail


def test_a_short_log_is_shown_whole(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    path.write_text("one\ntwo ä\n")
    assert read_log_tail(path) == "one\ntwo ä\n"


def test_a_long_log_is_cut_at_the_start_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    lines = [f"line {number}\n" for number in range(5000)]
    path.write_text("".join(lines))
    tail = read_log_tail(path)
    assert MAX_BYTES - 20 < len(tail.encode()) <= MAX_BYTES
    assert tail.splitlines(keepends=True) == lines[-len(tail.splitlines()) :]


@pytest.mark.parametrize("shift", range(4))
def test_a_line_without_end_is_cut_between_characters(tmp_path: Path, shift: int) -> None:
    path = tmp_path / "worker.log"
    path.write_text("😀" * 3000 + "x" * shift)
    tail = read_log_tail(path)
    assert set(tail) <= {"😀", "x"}
    assert MAX_BYTES - 4 < len(tail.encode()) <= MAX_BYTES


def test_bytes_that_are_not_text_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    path.write_bytes(b"a\xff\xfe" * 4000 + b"\nend")
    tail = read_log_tail(path)
    assert tail.endswith("end")
    assert len(tail.encode()) <= MAX_BYTES


def test_the_list_of_modules_after_a_crash_does_not_push_the_traceback_out(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    path.write_text(f"Fatal Python error\n\nExtension modules: {'numpy, ' * 2000}\n")
    assert read_log_tail(path) == "Fatal Python error\n\n"


def test_no_log_has_an_empty_end(tmp_path: Path) -> None:
    assert read_log_tail(tmp_path / "none.log") == ""
