"""Data: opening a task's dataset and handing out its documents one by one.

Documents are read and their media decoded when they are asked for, never all at once. :mod:`.source` opens datasets,
:mod:`.archives` unpacks the videos that come beside them, :mod:`.folders` says where things lie, :mod:`.documents`,
:mod:`.rows` and :mod:`.recordings` hand them out, :mod:`.media` decodes what they name, :mod:`.digest` makes the
digests by which a document and a dataset are recognised again. What a document means to a task lives in
:mod:`lmms_eval_grpc.engine.tasks`.
"""
