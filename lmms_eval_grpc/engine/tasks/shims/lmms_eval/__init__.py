"""What task code finds under the name ``lmms_eval``; see :mod:`lmms_eval_grpc.engine.tasks.shims`."""
