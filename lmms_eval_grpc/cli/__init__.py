"""The command line, ``lmms-eval-grpc``: a thin skin over the client, and over the server for ``serve``.

Here live the grammar of the arguments, what people see (plain lines, or rich where it is installed and there is a
terminal), what programs see (``--json``), and the exit codes. What a command does on the wire lives in ``client``; what
``serve`` starts lives in ``server`` and is imported only then. Asking for help imports neither.
"""

from lmms_eval_grpc.cli.main import main

__all__ = ["main"]
