"""Chat models that Hugging Face transformers loads, run in this process.

``backend`` is put together from one module per concern: ``options`` (what users may set), ``loading`` (weights, and
refusing half-loaded ones), ``ahead`` (what of loading needs no device), ``reuse`` (whether what is loaded may become
another checkpoint), ``weights`` (another checkpoint's in their place), ``processor`` (tokenizer and processors of
media), ``conversation`` (from lmms-eval's chat protocol to what a chat template takes), ``media`` and ``video`` (from
sources to pixels and sound), ``generation``, ``sampling`` and ``stopping`` (arguments, random choices and stop
strings), ``likelihood`` (how likely given texts are), ``planning`` (which requests share a batch), ``memory`` (how
large a batch may be), ``prefetch`` (the next batches while the model is busy), ``answering`` (one batch through the
model) and ``identity`` (which checkpoint this is).
"""
