"""What a worker prints and reports lacks the secrets of its job."""

from __future__ import annotations

import logging
import sys

import pytest

from lmms_eval_grpc.engine.record.redact import hide, redact, secret_values
from lmms_eval_grpc.jobs.results import JobError, JobErrorCode
from lmms_eval_grpc.jobs.spec import EvaluationSpec, MergeSpec
from lmms_eval_grpc.worker.hiding import hide_in_error, hide_in_output, secrets_of

SPEC = EvaluationSpec(
    "openai",
    ("t",),
    {
        "api_key": "key-of-the-job",
        "extra_headers": {"Authorization": "Bearer header-credential"},
        "base_url": "https://user:pa55word@host/v1",
        "token": True,
        "image_token": "<image>",
    },
)


def test_the_secrets_of_a_job_are_those_of_its_arguments_and_its_environment() -> None:
    environment = {
        "HF_TOKEN": "hf_environment_token",
        "SHORT_TOKEN": "short",
        "PATH": "/usr/bin",
        "MY_API_KEY": "k" * 12,
    }
    found = secrets_of(SPEC, environment)
    assert set(found) == {
        *("key-of-the-job", "Bearer header-credential", "header-credential", "user:pa55word", "pa55word"),
        *("hf_environment_token", "k" * 12),
    }
    assert secrets_of(MergeSpec("/c"), {}) == ()


def test_what_is_printed_and_logged_lacks_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
    of_library = logging.StreamHandler(sys.stderr)  # made before, as libraries do
    library = logging.getLogger("library")
    monkeypatch.setattr(library, "handlers", [of_library])
    monkeypatch.setattr(library, "propagate", False)
    hide_in_output(("first-secret",))
    hide_in_output(("key-of-the-job",))  # of the next job on the same model
    handler = logging.StreamHandler(sys.stdout)
    handler.emit(logging.LogRecord("n", logging.INFO, "f", 1, "the key %s", ("key-of-the-job",), None))
    print("key-of-the-job", "first-secret")
    library.warning("its %s", "key-of-the-job")
    sys.stderr.writelines(["a key-of-the-job\n", "sk-abcdefghijklmnopqrst\n"])
    print("end", flush=True)
    out, err = capsys.readouterr()
    assert out == "the key [redacted]\n[redacted] first-secret\nend\n"
    assert err == "its [redacted]\na [redacted]\n[redacted]\n"
    assert sys.stdout.isatty() is False


def test_log_records_without_secrets_keep_their_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
    hide_in_output(("key-of-the-job",))
    make = logging.getLogger("library").makeRecord
    record = make("library", logging.INFO, "f", 1, "%s of %d", ("some", 3), None)
    assert (record.msg, record.args, record.getMessage()) == ("%s of %d", ("some", 3), "some of 3")
    assert make("library", logging.INFO, "f", 1, "a %s", ("key-of-the-job",), None).getMessage() == "a [redacted]"


def test_an_error_lacks_them() -> None:
    error = JobError(JobErrorCode.EVALUATION, "R", "bad key-of-the-job", {"exception": "key-of-the-job"})
    assert hide_in_error(error, secrets_of(SPEC, {})) == JobError(
        JobErrorCode.EVALUATION, "R", "bad [redacted]", {"exception": "[redacted]"}
    )


@pytest.mark.parametrize(
    "text",
    [
        "task-with-a-long-name-of-words",
        "desk-abcdefghijklmnopqrstuvwx",
        "{% if bos_token == x %}{{ bos_token }}",
        "eos_token=</s>,image_token=<image>",
        "s3://bucket/folder@v1",
        "max_new_tokens=16,cache_key_length=3",
        "a basic question, bearer of news",
        "Basic mathematics, Basic trigonometry. Basic high-school algebra",
        "Bearer authentication: Bearer certificates/bonds; Bearer AUTHORIZATION",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact({"text": text, "eos_token": "</s>"}) == {"text": text, "eos_token": "</s>"}
    assert hide(text) == text
    assert secret_values([text]) == ()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("use hf_abcdefghijklmnop now", "hf_abcdefghijklmnop"),
        ("sk-proj-abcdefghijklmnop_1234", "sk-proj-abcdefghijklmnop_1234"),
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("https://user:pa55word@host/", "pa55word"),
        ("https://host/x?X-Amz-Signature=0123456789abcdef&y=1", "0123456789abcdef"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("ghp_abcdefghijklmnopqrstuvwxyz", "ghp_abcdefghijklmnopqrstuvwxyz"),
        ("api_key=abcdefgh,x=1", "abcdefgh"),
        ("client_secret = abcdefgh", "abcdefgh"),
    ],
)
def test_what_looks_like_a_secret_is_one(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert secret in secret_values(text)


def test_a_word_for_no_key_is_no_secret() -> None:
    assert secret_values({"api_key": "EMPTY", "token": "short", "password": "dummy"}) == ()
