"""Model backends: from messages to text.

``protocol`` says what a backend is; ``registry`` knows every backend by the names that users type, what it needs
installed and which arguments it takes, without importing any of it; ``preload`` lists what is worth importing ahead
of time. ``huggingface`` is the backend itself, put together from one module per concern: ``loading`` (weights, and
refusing half-loaded ones), ``processor`` (tokenizer and image processor), ``messages`` and ``images`` (from lmms-eval's
chat protocol to what a processor takes), ``generation`` and ``stopping`` (arguments and stop strings), ``likelihood``
(how likely given texts are), ``planning`` (which requests share a batch), ``memory`` (how large a
batch may be), ``prefetch`` (the next batch while the model is busy) and ``identity`` (which weights these are).

Nothing here knows tasks, documents, scores or the run loop: a backend answers requests, in any order, and says so batch
by batch.
"""
