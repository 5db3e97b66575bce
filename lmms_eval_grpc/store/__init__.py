"""Durable jobs, events and sample records. SQLite today, behind the interface of :mod:`lmms_eval_grpc.store.base`.

What lives here survives ``kill -9`` and power loss; who may read it, when it is told to watchers and what runs next is
decided elsewhere (``scheduler``, ``server``).
"""
