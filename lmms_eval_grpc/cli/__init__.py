"""The command line, ``lmms-eval-grpc``: a thin skin over the client, over the server for ``serve``, and over the engine
for what is done without one.

Here live the grammar of the arguments, what people see (plain lines, or rich where it is installed and there is a
terminal), what programs see (``--json``), and the exit codes. What a command does on the wire lives in ``client``; what
``serve`` starts lives in ``server``, and what ``eval``, ``score``, ``compare`` and ``power`` do in ``engine``; both are
imported only then. Asking for help imports neither.
"""

from lmms_eval_grpc.cli.main import main

__all__ = ["main"]
