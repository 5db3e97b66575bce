"""Inference servers that a job starts for itself and asks through the OpenAI backend: vLLM, SGLang, transformers.

``arguments`` (of ``model_args``; light), ``commands`` (what starts each server), ``server`` (its life: start, health,
log, one restart, end), ``guard`` (a small program between, which ends the server when the job's process is gone) and
``backend`` (the loader, and the server's life together with the requests).
"""
