"""lmms-eval's own model backends, where that package is installed.

They run in a process of their own (:attr:`~lmms_eval_grpc.engine.models.entry.ModelEntry.own_process`), where the real
lmms-eval is imported and no task's code runs: what task code imports as ``lmms_eval`` in the process that evaluates is
this package's own (``engine.tasks.shims``), so the two never meet.

``names`` reads from its files which backends there are, and imports nothing. ``loading`` imports one and makes a model,
``contract`` puts requests into lmms-eval's form and reads its answers, and ``backend`` asks the model, some requests at
a time.
"""
