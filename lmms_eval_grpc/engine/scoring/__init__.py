"""Scoring: from a model's responses to scores of samples, and from those to scores of tasks.

Filters, reasoning tags, metrics and aggregations, in that order; :mod:`.process` scores one sample, :mod:`.aggregate`
one task. Generates nothing and writes nothing. The formulas of standard errors and intervals live in
:mod:`lmms_eval_grpc.engine.stats`.
"""
