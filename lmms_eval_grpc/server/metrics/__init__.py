"""Prometheus metrics: what is measured (``instruments``), who measures it (``calls``, ``jobs``, ``state``, ``lag``),
and the HTTP endpoint that serves it.

Each server has a registry of its own. Labels have few values: never a job, a principal or a client.
"""
