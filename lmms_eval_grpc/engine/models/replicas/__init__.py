"""One model on several devices: replicas, each a process with a device and an ordinary backend of its own.

The process that evaluates (the parent) touches no device. It builds the requests, because tasks' code runs nowhere
else, and deals them out in windows: a replica gets the next one when it has nothing left to do. There are no
collectives, so none can hang another; of one that dies, the others take over what it had not answered.

``backend`` is the :class:`~lmms_eval_grpc.engine.models.protocol.Backend` that callers see. ``work`` says who gets
which requests, ``courier`` carries them, ``replica`` is the parent's end of one process and ``child`` what runs in it;
``messages`` is what the two say to each other. ``nursery`` is the process that replicas are forked from.
"""
