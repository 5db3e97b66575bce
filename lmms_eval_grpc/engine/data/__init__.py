"""Data: opening a task's dataset and handing out its documents one by one.

Documents are read and their images decoded when they are asked for, never all at once. Also the digests by which a
document and a dataset are recognised again. What a document means to a task lives in
:mod:`lmms_eval_grpc.engine.tasks`.
"""
