"""Following the queue."""

from __future__ import annotations

import asyncio

from lmms_eval_grpc.jobs.state import JobState
from lmms_eval_grpc.scheduler.feed import QueueFeed
from tests.scheduler.doubles import PATIENCE


def publish(feed: QueueFeed, count: int) -> None:
    for _ in range(count):
        feed.publish("job", None, JobState.QUEUED, 1.0)


def test_changes_are_told_after_a_revision() -> None:
    feed = QueueFeed()
    assert (feed.revision, feed.after(0)) == (0, [])
    feed.publish("a", None, JobState.QUEUED, 1.0)
    feed.publish("a", JobState.QUEUED, JobState.RUNNING, 2.0)
    changes = feed.after(0)
    assert changes is not None
    assert [(change.revision, change.previous, change.state) for change in changes] == [
        (1, None, JobState.QUEUED),
        (2, JobState.QUEUED, JobState.RUNNING),
    ]
    assert feed.after(1) == changes[1:]
    assert feed.after(2) == []


def test_a_follower_that_fell_behind_is_told_so() -> None:
    feed = QueueFeed(capacity=5)
    publish(feed, 12)
    assert feed.after(6) is None
    kept = feed.after(7)
    assert kept is not None
    assert [change.revision for change in kept] == [8, 9, 10, 11, 12]


def test_a_revision_of_another_server_needs_a_snapshot() -> None:
    feed = QueueFeed()
    publish(feed, 3)
    assert feed.after(99) is None


async def test_followers_are_woken() -> None:
    feed = QueueFeed()
    waits = [asyncio.create_task(feed.wait_beyond(0, PATIENCE)) for _ in range(10)]
    await asyncio.sleep(0)
    publish(feed, 1)
    assert await asyncio.gather(*waits) == [True] * 10
    assert await feed.wait_beyond(0, 0)
    assert not await feed.wait_beyond(1, 0.01)


async def test_closing_sends_followers_away() -> None:
    feed = QueueFeed()
    wait = asyncio.create_task(feed.wait_beyond(0, None))
    await asyncio.sleep(0)
    feed.close()
    assert not await wait
    assert feed.closed
    assert not await feed.wait_beyond(0, None)
