"""Jobs on the machines of a Ray cluster.

The server talks to a process of its own, the driver, which alone imports Ray: a driver ends with its cluster, and the
server must not. For every job the driver makes an actor on the node that the scheduler has chosen; Ray grants it its
GPUs, and it runs the job as a server on that node would, by a :class:`~lmms_eval_grpc.executors.local.LocalExecutor`.

``executor`` and ``driver_process`` run in the server, ``driver`` in the process beside it, ``actor`` on the nodes.
"""
