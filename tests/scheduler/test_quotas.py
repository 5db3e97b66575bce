"""Jobs and submissions of each owner."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_eval_grpc.jobs.errors import RequestIdConflict, StoreUnavailable, TooManyJobs, TooManySubmissions
from lmms_eval_grpc.scheduler.quotas import Quotas
from tests.scheduler.conftest import NewService


@given(
    per_minute=st.integers(1, 200),
    pauses=st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=60),
    start=st.floats(0, 1e6),
)
def test_a_bucket_refuses_exactly_what_is_too_fast(per_minute: int, pauses: list[float], start: float) -> None:
    now = start
    quotas = Quotas(None, per_minute, lambda: now)
    tokens, at = float(per_minute), now  # What the bucket should hold.
    for number, pause in enumerate(pauses):
        now += pause
        tokens, at = min(per_minute, tokens + (now - at) * per_minute / 60), now
        refused = quotas.refusal("ada", 1.0)
        if tokens < 1 - 1e-4:
            assert isinstance(refused, TooManySubmissions)
            assert refused.retry_after == pytest.approx((1 - tokens) * 60 / per_minute, abs=1e-4)
            now += refused.retry_after
            assert quotas.refusal("ada", 1.0) is None
            tokens, at = 1.0, now
        elif tokens > 1 + 1e-4:
            assert refused is None
        quotas.submitted("ada", f"job-{number}")
        quotas.ended("ada", f"job-{number}")
        tokens -= 1
        assert quotas.refusal("bob", 1.0) is None


def test_a_minute_brings_as_many_as_a_burst() -> None:
    now = 0.0
    quotas = Quotas(None, 3, lambda: now)
    taken = 0
    for _ in range(1201):  # Tries every tenth of a second for two minutes.
        if quotas.refusal("ada", 1.0) is None:
            quotas.submitted("ada", str(taken))
            taken += 1
        now += 0.1
    assert taken == 3 + 2 * 3


def test_of_owners_that_come_and_go_nothing_is_kept() -> None:
    now = 0.0
    quotas = Quotas(5, 60, lambda: now)
    most = 0
    for number in range(20_000):
        owner = f"owner-{number}"
        assert quotas.refusal(owner, 1.0) is None
        quotas.submitted(owner, "job")
        quotas.ended(owner, "job")
        most = max(most, quotas.owners)
        now += 0.1
    # Each is kept for a second; ten of them come in one.
    assert most <= 600


def test_what_is_withdrawn_does_not_count() -> None:
    quotas = Quotas(1, 1, lambda: 0.0)
    for number in range(3):
        assert quotas.refusal("ada", 1.0) is None
        quotas.submitted("ada", str(number))
        assert isinstance(quotas.refusal("ada", 1.0), TooManyJobs)
        quotas.withdrawn("ada", str(number))


async def test_a_submission_that_the_store_does_not_take_does_not_count(new_service: NewService) -> None:
    service = await new_service(max_jobs_per_owner=1, max_submissions_per_minute=1)
    service.store.broken = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await service.submit(owner="ada")
    service.store.broken = False
    await service.submit(owner="ada", request_id="r", request_digest="d")
    with pytest.raises(TooManyJobs):
        await service.submit(owner="ada")
    with pytest.raises(RequestIdConflict):
        await service.submit(owner="ada", request_id="r", request_digest="other")


async def test_the_same_request_many_times_at_once_counts_once(new_service: NewService) -> None:
    service = await new_service(max_submissions_per_minute=2)
    jobs = await asyncio.gather(
        *(service.submit(owner="ada", request_id="r", request_digest="d") for _ in range(30)), return_exceptions=True
    )
    made = {job.job_id for job in jobs if not isinstance(job, BaseException)}
    assert len(made) == 1
    await service.submit(owner="ada")
    with pytest.raises(TooManySubmissions):
        await service.submit(owner="ada")
