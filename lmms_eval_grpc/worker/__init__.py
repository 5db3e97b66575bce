"""What runs in a job's own process: one worker, one job, one process group.

``template`` imports the heavy libraries once and makes workers by forking itself; ``main`` runs one job in such a
worker and tells the server about it; ``ahead`` is what is done before there is a device for it, ``model`` the model
that may outlast it, ``surroundings`` what a job finds in its process. ``translate`` is the only place that knows both
the service's words for a job (``jobs``) and the engine's; ``frames`` carries messages over a socket; ``processes`` is
what Linux needs for process groups that leave nothing behind. Starting, watching and killing workers is the business of
``executors``, and nothing here knows gRPC.
"""
