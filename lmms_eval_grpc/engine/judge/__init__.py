"""Judges: language models and rules that say whether an answer is right.

:mod:`.server` asks a model behind an OpenAI-compatible interface, with a limit on how many questions are open at once,
retries, and a cache on disk; :mod:`.parsing` reads what it says; :mod:`.verifiers` and :mod:`.extractors` are the
rules, and :mod:`.pipeline` joins both. A judge that gives no judgement raises :class:`.failures.JudgeError`: the sample
is then unscored, never wrong.

The names are those of lmms-eval's ``llm_judge`` and ``verifiers``, so that a task's code runs against them. Knows
nothing of tasks, samples or the run.
"""
