"""Evaluation itself: tasks, data, models, scoring, statistics and records.

Hands over scores for a model and a list of tasks, and tells a reporter what it does on the way. Knows nothing of jobs,
queues, stores or gRPC, and may be used without them. Importing this package, :mod:`.api`, :mod:`.check` or
:mod:`.tasks.index` imports neither torch nor transformers nor datasets.
"""
