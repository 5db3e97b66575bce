"""Numbers, times and tables as people read them; JSON as every parser takes it."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import pytest

from lmms_eval_grpc.cli import arguments
from lmms_eval_grpc.cli.following import describe_progress
from lmms_eval_grpc.cli.output import Table, format_table, make_harmless, to_json
from lmms_eval_grpc.cli.words import (
    format_bytes,
    format_metric,
    format_number,
    format_seconds,
    name_state,
    pick_headline,
    shorten,
    tabulate_results,
    to_document,
)
from lmms_eval_grpc.v1 import job_pb2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (9.96, "10.0 s"), (42.4, "42 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"),
     (7620, "2 h 07 min"), (273600, "3 d 04 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.91234, "0.9123"), (0.5, "0.5"), (0, "0"), (1, "1"), (-3.25, "-3.25"), (1234.56, "1234.6"), (1e-5, "1.000e-05"),
     (2e7, "2.000e+07"), (math.nan, "undefined"), (math.inf, "inf")],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


def test_sizes() -> None:
    assert [format_bytes(count) for count in (5, 2048, 16 * 2**30)] == ["5 B", "2.0 KiB", "16.0 GiB"]


def test_a_state_of_a_newer_server_keeps_its_number() -> None:
    assert name_state(job_pb2.JOB_STATE_RUNNING) == "running"
    assert name_state(77) == "77"


def test_the_headline_is_the_first_score_that_is_defined() -> None:
    job = job_pb2.Job()
    assert pick_headline(job) == ""
    job.task_results.add(task="a").metrics.add(name="anls", value=math.nan)
    job.task_results.add(task="b").metrics.add(name="acc", value=0.5, standard_error=0.1)
    assert pick_headline(job) == "0.5 ± 0.1 acc of b (+1 more)"


def test_a_task_without_metrics_has_a_row_of_its_own() -> None:
    job = job_pb2.Job()
    job.task_results.add(task="a", samples=job_pb2.SampleCounts(asked=3, scored=3))
    table = tabulate_results(job)
    assert table is not None
    assert [row[:2] for row in table.rows] == [("a", "(no metric)")]
    assert tabulate_results(job_pb2.Job()) is None


def test_columns_are_aligned() -> None:
    table = Table(("name", "n"), [("a", "10"), ("longer", "7")], right_aligned=frozenset({"n"}))
    assert format_table(table) == ["name     n", "a       10", "longer   7"]


def test_long_text_becomes_one_short_line() -> None:
    assert shorten("a\n b\t c", 10) == "a b c"
    assert shorten("0123456789", 5) == "0123…"


def test_control_characters_are_replaced() -> None:
    assert make_harmless("a\x1b[2Jb\tc\r\x9b") == "a\N{REPLACEMENT CHARACTER}[2Jb\tc" + "\N{REPLACEMENT CHARACTER}" * 2


def test_json_has_no_numbers_that_json_lacks() -> None:
    text = to_json({"a": [math.nan, {"b": -math.inf}], "c": 0.5})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": ["NaN", {"b": "-Infinity"}], "c": 0.5}


def test_documents_have_every_key_also_for_defaults() -> None:
    document = to_document(job_pb2.Metric(name="acc", value=math.nan))
    assert document["value"] == "NaN"
    assert document["sample_count"] == "0"
    assert "standard_error" not in document, "unset is not zero"


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (arguments.parse_names, "a, b,", ["a", "b"]),
        (arguments.parse_states, "Queued,running", ["queued", "running"]),
        (arguments.parse_mapping, "a=1,b=[1,2]", "a=1,b=[1,2]"),
        (arguments.parse_mapping, '{"a": {"b": [1, "x,y"]}}', {"a": {"b": [1, "x,y"]}}),
        (arguments.parse_number, "8", 8),
        (arguments.parse_number, "0.5", 0.5),
        (arguments.parse_label, "run=a=b", ("run", "a=b")),
        (arguments.parse_label, "empty=", ("empty", "")),
        (arguments.parse_duration, "90", 90.0),
        (arguments.parse_duration, "1.5h", 5400.0),
        (arguments.parse_count, "3", 3),
    ],
)
def test_words_of_the_command_line_become_values(parse: Any, text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (arguments.parse_names, " , "),
        (arguments.parse_states, "done"),
        (arguments.parse_mapping, '{"a": 1'),
        (arguments.parse_mapping, '{"a": NaN}'),
        (arguments.parse_number, "some"),
        (arguments.parse_label, "run"),
        (arguments.parse_label, "=a"),
        (arguments.parse_duration, "0"),
        (arguments.parse_duration, "-3"),
        (arguments.parse_duration, "2 weeks"),
        (arguments.parse_count, "-1"),
    ],
)
def test_words_that_mean_nothing_are_refused_by_name(parse: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        parse(text)
    assert text.strip() in str(refused.value) or repr(text) in str(refused.value)


def test_a_metric_tells_how_it_compares_with_the_baseline() -> None:
    metric = job_pb2.Metric(name="acc", filter="none", value=80.0)
    assert format_metric(metric) == "acc 80"
    metric.baseline.difference = 0.05
    metric.baseline.verdict = job_pb2.BaselineComparison.VERDICT_BETTER
    metric.baseline.adjusted_p_value = 0.012
    assert format_metric(metric) == "acc 80, +0.05 (better, p 0.012) against the baseline"
    metric.baseline.difference = -0.01
    metric.baseline.verdict = job_pb2.BaselineComparison.VERDICT_NOT_ENOUGH_EVIDENCE
    metric.baseline.ClearField("adjusted_p_value")
    assert format_metric(metric) == "acc 80, -0.01 (not enough evidence) against the baseline"


def test_the_table_of_results_has_a_column_for_the_baseline_only_where_there_is_one() -> None:
    job = job_pb2.Job(state=job_pb2.JOB_STATE_COMPLETED)
    metric = job.evaluation_result.task_results.add(task="digits").metrics.add(name="acc", filter="none", value=0.5)
    plain = tabulate_results(job)
    assert plain is not None
    assert "against baseline" not in plain.headings
    metric.baseline.difference = 0.25
    metric.baseline.verdict = job_pb2.BaselineComparison.VERDICT_BETTER
    compared = tabulate_results(job)
    assert compared is not None
    assert (compared.headings[-1], compared.rows[0][-1]) == ("against baseline", "+0.25 (better)")


@pytest.mark.parametrize(
    ("text", "count"),
    [("500", 500), ("500MB", 500_000_000), ("5gb", 5_000_000_000), ("4GiB", 4 * 2**30), ("1.5k", 1500), ("7 B", None),
     ("0", None), ("big", None), ("-1", None)],
)  # fmt: skip
def test_sizes_are_read(text: str, count: int | None) -> None:
    if count is None:
        with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
            arguments.parse_bytes(text)
    else:
        assert arguments.parse_bytes(text) == count


def test_a_merge_is_told_in_bytes() -> None:
    progress = job_pb2.Progress(stage=job_pb2.JOB_STAGE_MERGING, bytes_done=2**30, bytes_total=2**32)
    assert describe_progress(progress) == "merging 1.0 GiB of 4.0 GiB (25%)"
