"""Hooks that submit checkpoints from training loops and bring the scores back.

What lives here: :class:`~lmms_eval_grpc.integrations.tracker.EvalTracker`, for any loop, with what it is made of
(``results``, ``pins``), and on top of it one callback per framework (``transformers``, ``lightning``), each importing
its framework, none imported by the others. What does not: the client itself, trackers (``lmms_eval_grpc.trackers``),
and anything that runs on the server.
"""
