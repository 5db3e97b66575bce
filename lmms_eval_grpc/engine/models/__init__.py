"""Model backends: from messages to text.

``protocol`` says what a backend is. ``entry`` is what is known of one before it is imported, ``catalog`` lists those
that ship with the package, and ``registry`` finds each, plug-ins among them, by the names that users type. ``preload``
lists what is worth importing ahead of time. A folder is one backend; ``generation_arguments`` is what all of them make
of lmms-eval's arguments in the same way, and ``checkpoint_files`` tells checkpoints apart.

Nothing here knows tasks, documents, scores or the run loop: a backend answers requests, in any order, and says so batch
by batch.
"""
