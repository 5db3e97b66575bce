"""Chat models behind a server that speaks OpenAI's API, near or far.

``backend`` is put together from one module per concern: ``arguments`` (of ``model_args``; light), ``options`` (what
they and the environment mean), ``conversation`` and ``media`` (from lmms-eval's chat protocol to the API's messages),
``parameters`` (generation arguments, and which of them this server takes), ``client`` (one request and what came of
it), ``failures`` (what may pass, what stays, what is wrong for all requests), ``concurrency`` (how many requests at
once) and ``dispatch`` (a window of requests in an event loop of its own thread).
"""
