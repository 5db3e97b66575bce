"""Servers that fail, refuse or are overloaded, and how many requests are open meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmms_eval_grpc.engine.api import EvaluationCancelled, EvaluationConfig, EvaluationError
from lmms_eval_grpc.engine.models.openai.concurrency import AdaptiveLimit
from lmms_eval_grpc.engine.models.openai.dispatch import Emit, answer_all, stream
from lmms_eval_grpc.engine.models.protocol import Answer, GenerationRequest, GenerationResponse
from lmms_eval_grpc.engine.run.evaluate import SAMPLES, evaluate
from lmms_eval_grpc.engine.run.log import read_sound_lines
from tests.support.api_requests import KEY, answers, ask, load, numbered, refusal
from tests.support.judge_server import Asked, JudgeHandle, Reply, question
from tests.support.reporters import Recorder

OVERLOADED = {"Retry-After": "0", "retry-after-ms": "5"}


def no_request_thread_is_left() -> bool:
    return not any(thread.name.startswith(("requests", "build")) for thread in threading.enumerate())


def test_every_request_is_answered_once_whatever_the_order(api_server: JudgeHandle) -> None:
    hold = threading.Event()
    api_server.answer = lambda asked: Reply(
        f"answer to {question(asked)}", hold=hold if question(asked) == "0" else None
    )
    found: list[Answer] = []
    for batch in load(api_server).generate(numbered(60)):
        found += batch
        if len(found) >= 20:
            hold.set()
    assert [answer.index for answer in found] != list(range(60))
    assert sorted((answer.index, answer.response.text) for answer in found) == [
        (number, f"answer to {number}") for number in range(60)
    ]
    assert no_request_thread_is_left()


FLEETING = {
    "rate limit": (Reply(status=429, headers=OVERLOADED), "RATE_LIMITED"),
    "server error": (Reply(status=500), "SERVER_ERROR"),
    "gateway": (Reply(status=502, body=b"<html>bad gateway</html>", headers={"Content-Type": "text/html"}), "SERVER_"),
    "broken JSON": (Reply(body=b'{"choices": [{'), "MALFORMED_RESPONSE"),
    "no JSON": (Reply(body=b"hello", headers={"Content-Type": "text/plain"}), "MALFORMED_RESPONSE"),
    "no choices": (Reply(more={"choices": []}), "MALFORMED_RESPONSE"),
    "hang-up": (Reply(hang_up=True), "UNREACHABLE"),
    "silence": (Reply(delay=3), "TIMEOUT"),
}


@pytest.mark.parametrize("name", FLEETING)
def test_a_failure_that_may_pass_is_tried_again(api_server: JudgeHandle, name: str) -> None:
    reply, _ = FLEETING[name]
    api_server.script = [reply, reply]
    (response,) = answers(load(api_server, timeout=1 if name == "silence" else 60), [ask()])
    assert (response.text, response.error) == ("answer to Why?", None)
    assert len(api_server.asked) == 3


@pytest.mark.parametrize("name", FLEETING)
def test_a_failure_that_stays_is_an_error_and_no_answer(api_server: JudgeHandle, name: str) -> None:
    reply, word = FLEETING[name]
    api_server.answer = lambda asked: reply if question(asked) == "1" else Reply("yes")
    responses = answers(load(api_server, max_retries=2, timeout=1 if name == "silence" else 60), numbered(3))
    assert [response.text for response in responses] == ["yes", "", "yes"]
    assert str(responses[1].error).startswith(word)
    assert "after 2 attempts" in str(responses[1].error)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("half an answer", finish_reason="content_filter"),
        refusal(400, "The response was filtered", code="content_filter"),
        refusal(403, "Your chosen model requires moderation and your input was flagged for violence", code=403),
        refusal(403, "no", code="content_filter"),
    ],
)
def test_a_content_filter_is_an_error_of_that_sample_at_once(api_server: JudgeHandle, reply: Reply) -> None:
    api_server.answer = lambda asked: reply if question(asked) == "1" else Reply("yes")
    responses = answers(load(api_server), numbered(3))
    assert [response.error is None for response in responses] == [True, False, True]
    assert str(responses[1].error).startswith("CONTENT_FILTER")
    assert responses[1].text == ""
    assert len(api_server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (refusal(401, f"wrong key {KEY}"), "AUTHENTICATION_FAILED"),
        (refusal(403, "this key may not do that"), "AUTHENTICATION_FAILED"),
        (refusal(404, "there is no model m", code="model_not_found"), "UNKNOWN_SERVED_MODEL"),
        (refusal(429, "pay first", code="insufficient_quota"), "QUOTA_EXHAUSTED"),
    ],
)
def test_what_is_wrong_for_all_requests_ends_the_evaluation_at_once(
    api_server: JudgeHandle, reply: Reply, reason: str
) -> None:
    api_server.answer = lambda asked: reply
    with pytest.raises(EvaluationError) as caught:
        answers(load(api_server), numbered(200))
    assert caught.value.reason == reason
    assert KEY not in caught.value.message
    assert len(api_server.asked) < 20
    assert no_request_thread_is_left()


def test_requests_that_are_forbidden_among_others_fail_alone(api_server: JudgeHandle) -> None:
    def answer(asked: Asked) -> Reply:
        return refusal(403, "no") if question(asked) in ("0", "4", "9") else Reply("yes")

    api_server.answer = answer
    responses = answers(load(api_server, num_concurrent=1), numbered(12))
    assert [number for number, response in enumerate(responses) if response.error] == [0, 4, 9]
    assert str(responses[0].error).startswith("FORBIDDEN")
    assert len(api_server.asked) == 12


def test_a_key_that_may_not_list_models_may_still_ask(api_server: JudgeHandle) -> None:
    api_server.no_models_status = 403
    (response,) = answers(load(api_server), [ask()])
    assert response.error is None
    api_server.no_models_status = 401
    with pytest.raises(EvaluationError) as caught:
        load(api_server)
    assert caught.value.reason == "AUTHENTICATION_FAILED"


def test_secrets_in_headers_are_kept_out_of_errors(api_server: JudgeHandle) -> None:
    api_server.answer = lambda _: refusal(401, "no such token: very-secret-token")
    backend = load(api_server, extra_headers={"X-Authorization": "Bearer very-secret-token", "X-Short": "no"})
    with pytest.raises(EvaluationError, match=r"no such token: \[redacted\]") as caught:
        answers(backend, numbered(1))
    assert "very-secret" not in caught.value.message


def test_answers_that_came_with_a_fatal_failure_are_not_lost() -> None:
    async def answer(index: int) -> Answer:
        if index == 3:
            raise EvaluationError("QUOTA_EXHAUSTED", "no credit is left")
        return Answer(index, GenerationResponse(str(index)))

    async def work(emit: Emit) -> None:
        await answer_all(8, answer, lambda: 9, emit)

    found: list[Answer] = []
    with pytest.raises(EvaluationError, match="no credit is left"):
        found.extend(answer for group in stream(work) for answer in group)
    assert sorted(one.index for one in found) == [0, 1, 2, 4, 5, 6, 7]


def test_a_server_that_is_not_there_is_noticed_before_any_request(api_server: JudgeHandle) -> None:
    with pytest.raises(EvaluationError) as caught:
        load(api_server, base_url="http://127.0.0.1:9/v1")
    assert caught.value.reason == "MODEL_SERVER_UNREACHABLE"


def test_a_server_that_goes_away_ends_the_evaluation(api_server: JudgeHandle) -> None:
    backend = load(api_server, max_retries=2)
    api_server.answer = lambda asked: Reply(hang_up=True)
    with pytest.raises(EvaluationError) as caught:
        answers(backend, numbered(100))
    assert caught.value.reason == "MODEL_SERVER_UNREACHABLE"


def test_the_number_of_open_requests_doubles_while_all_is_well(api_server: JudgeHandle) -> None:
    # Nobody is answered before as many are open as the limit must have come to by then.
    wanted, waiting, late = [4, 8, 16, 32], 0, False
    changed = threading.Condition()

    def answer(asked: Asked) -> Reply:
        nonlocal waiting, late
        with changed:
            waiting += 1
            if wanted and waiting == wanted[0]:
                waiting = 0
                wanted.pop(0)
                changed.notify_all()
            elif wanted:
                mine = len(wanted)
                late |= not changed.wait_for(lambda: len(wanted) < mine, timeout=30)
        return Reply("ok")

    api_server.answer = answer
    backend = load(api_server, adaptive_max_concurrency=32)
    responses = answers(backend, numbered(100))
    assert [response.text for response in responses] == ["ok"] * 100
    assert not late
    assert not wanted
    assert backend.limit.value == 32


def test_an_overload_takes_the_limit_down_and_everything_is_answered_still(api_server: JudgeHandle) -> None:
    most, refused = 6, 0

    def answer(asked: Asked) -> Reply:
        nonlocal refused
        if api_server.open > most:
            refused += 1
            return Reply(status=429, headers=OVERLOADED)
        return Reply("ok", delay=0.01)

    api_server.answer = answer
    backend = load(api_server, adaptive_max_concurrency=64)
    responses = answers(backend, numbered(200))
    assert [response.text for response in responses] == ["ok"] * 200
    assert refused > 0
    assert backend.limit.value < 32


def test_a_limit_grows_only_when_reached_and_retreats_once_a_round() -> None:
    limit = AdaptiveLimit(least=2, most=100, first=10)
    limit.succeed(limit.begin(3))
    assert limit.value == 10
    round_of_ten = [limit.begin(open_requests) for open_requests in range(1, 11)]
    for ticket in round_of_ten:
        limit.succeed(ticket)
    assert limit.value == 20
    round_of_twenty = [limit.begin(open_requests) for open_requests in range(1, 21)]
    for ticket in round_of_twenty:
        limit.retreat(ticket)
    assert limit.value == 14
    round_of_fourteen = [limit.begin(open_requests) for open_requests in range(1, 15)]
    for ticket in round_of_fourteen:
        limit.succeed(ticket)
    assert 14 <= limit.value <= 15
    for _ in range(20):
        limit.retreat(limit.begin(1))
    assert limit.value == 2


def test_the_concurrency_may_be_fixed(api_server: JudgeHandle) -> None:
    backend = load(api_server, adaptive_concurrency=False, num_concurrent=3)
    answers(backend, numbered(40))
    assert api_server.most_open <= 3
    assert backend.limit.value == 3


class Counting(list[GenerationRequest]):
    """Counts how often each request is built."""

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        super().__init__(requests)
        self.built = [0] * len(self)

    def __getitem__(self, index: Any) -> Any:
        self.built[index] += 1
        return super().__getitem__(index)


def test_requests_are_built_once_and_only_a_window_of_them(api_server: JudgeHandle) -> None:
    hold = threading.Event()
    api_server.answer = lambda asked: Reply("ok", hold=hold)
    requests = Counting(numbered(200))
    stream = load(api_server, adaptive_concurrency=False, num_concurrent=4).generate(requests)
    for batch in stream:  # an empty one says that half a second is over
        assert batch == []
        break
    assert sum(requests.built) <= 4 + 8
    hold.set()
    assert sum(len(batch) for batch in stream) == 200
    assert set(requests.built) == {1}


def test_closing_the_iterator_leaves_nothing_running(api_server: JudgeHandle) -> None:
    hold = threading.Event()
    api_server.answer = lambda asked: Reply("ok", hold=hold if int(question(asked)) >= 4 else None)
    stream = load(api_server).generate(numbered(100))
    got = 0
    for batch in stream:
        got += len(batch)
        if got == 4:
            break
    stream.close()  # type: ignore[attr-defined]
    assert no_request_thread_is_left()
    asked = len(api_server.asked)
    hold.set()
    assert asked < 40
    assert len(api_server.asked) == asked


def test_a_failing_fetch_fails_its_request_alone(api_server: JudgeHandle) -> None:
    class Requests(list[GenerationRequest]):
        def __getitem__(self, index: Any) -> Any:
            if index == 1:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    responses = answers(load(api_server), Requests(numbered(3)))
    assert "the disk is gone" in str(responses[1].error)
    assert [response.error is None for response in responses] == [True, False, True]


def digits(api_server: JudgeHandle, limit: int) -> EvaluationConfig:
    model_args = {"model": "m", "base_url": api_server.url, "retry_backoff_s": 0.01, "max_retries": 2}
    return EvaluationConfig("openai", ("handwritten_digits",), model_args, limit=limit)


def test_a_request_that_failed_is_a_sample_without_score(api_server: JudgeHandle, tmp_path: Path) -> None:
    first: list[str] = []

    def answer(asked: Asked) -> Reply:
        image = asked.payload["messages"][-1]["content"][0]["image_url"]["url"]
        first.append(image)
        return Reply(status=500) if image == first[0] else Reply("7")

    api_server.answer = answer
    (score,) = evaluate(digits(api_server, 40), tmp_path, Recorder()).tasks
    assert (score.samples_scored, score.samples_errored) == (39, 1)
    records = read_sound_lines(tmp_path / SAMPLES)[1]
    (failed,) = [record for record in records if record["outcome"] != "ok"]
    assert failed["outcome"] == "model_error"
    assert failed["error"].startswith("SERVER_ERROR")


def test_an_evaluation_is_cancelled_while_a_server_keeps_it_waiting(api_server: JudgeHandle, tmp_path: Path) -> None:
    class Impatient(Recorder):
        def cancelled(self) -> bool:
            return bool(api_server.asked)

    hold = threading.Event()
    api_server.answer = lambda asked: Reply("7", hold=hold)
    with pytest.raises(EvaluationCancelled):
        evaluate(digits(api_server, 20), tmp_path, Impatient())
    assert no_request_thread_is_left()
    hold.set()
