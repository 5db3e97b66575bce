"""Chat models that Hugging Face transformers loads, run in this process.

``backend`` is put together from one module per concern: ``options`` (what users may set), ``loading`` (weights, and
refusing half-loaded ones), ``processor`` (tokenizer and processors of media), ``conversation`` (from lmms-eval's chat
protocol to what a chat template takes), ``media`` and ``video`` (from sources to pixels and sound), ``generation`` and
``stopping`` (arguments and stop strings), ``likelihood`` (how likely given texts are), ``planning`` (which requests
share a batch), ``memory`` (how large a batch may be), ``prefetch`` (the next batch while the model is busy) and
``identity`` (which weights these are).
"""
