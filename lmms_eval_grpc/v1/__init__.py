"""Generated messages and stubs of the public contract (``protos/lmms_eval_grpc/v1``). Regenerate with ``scripts/generate``."""
