"""Scores over groups of answers, e.g. both questions about one image."""

from collections import defaultdict


def grouped(results, group, member):
    """The ``results`` of each group, and how many copies of the group there are.

    ``group`` and ``member`` give a result's group and what tells it from the others in there. A real run has one
    copy of each; a bootstrap draws whole groups, some of them several times.
    """
    groups = defaultdict(list)
    for result in results:
        groups[group(result)].append(result)
    return [(members, len(members) / len({member(result) for result in members})) for members in groups.values()]


def share_all_correct(results, group, member, correct=lambda result: result["score"]):
    """The share of groups whose members are all correct."""
    found = grouped(results, group, member)
    total = sum(copies for _, copies in found)
    return sum(copies for members, copies in found if all(map(correct, members))) / total if total else 0.0


def mean_score(results):
    """The mean of the results' ``score``."""
    return sum(result["score"] for result in results) / len(results) if results else 0.0


def percentage(results):
    """The mean of the results' ``score`` in per cent."""
    return 100 * mean_score(results)
