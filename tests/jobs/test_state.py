"""The life of a job, edge by edge."""

from __future__ import annotations

import pytest

from lmms_eval_grpc.jobs.state import IllegalTransition, JobState, check_transition

Q, R, G = JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING
C, F, X = JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED

ALLOWED = {(Q, R), (Q, X), (Q, F), (R, C), (R, F), (R, G), (R, Q), (G, X), (G, C), (G, F)}
EVERY_PAIR = [(previous, following) for previous in JobState for following in JobState]


@pytest.mark.parametrize(("previous", "following"), EVERY_PAIR)
def test_only_the_edges_of_the_table_are_allowed(previous: JobState, following: JobState) -> None:
    if (previous, following) in ALLOWED:
        check_transition(previous, following)
    else:
        with pytest.raises(IllegalTransition, match=f"from {previous} to {following}"):
            check_transition(previous, following)


def test_exactly_three_states_are_terminal() -> None:
    assert {state for state in JobState if state.ended} == {C, F, X}


def test_every_state_can_reach_an_end() -> None:
    for state in JobState:
        reached, frontier = {state}, {state}
        while frontier:
            frontier = {b for a, b in ALLOWED if a in frontier} - reached
            reached |= frontier
        assert any(each.ended for each in reached)
