"""Statistics: errors, intervals, tests and sample sizes as pure functions of numbers.

Of one run: :mod:`.intervals` (means, independent and clustered), :mod:`.bootstrap` (any aggregation), :mod:`.repeats`
(several responses per document), :mod:`.groups` (groups of tasks). Of two runs over the same documents: :mod:`.paired`
and, for right-or-wrong scores, :mod:`.binary_pairs`. Before a run: :mod:`.power`.

Each function says from which source its formula comes, and returns None where there is too little data, instead of a
number that looks like an answer. Knows nothing of tasks, metrics or samples.
"""
