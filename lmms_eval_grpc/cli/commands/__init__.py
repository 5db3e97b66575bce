"""One module per command (or per noun), each with ``run(args, output) -> int``, the exit code.

Their arguments are declared in ``cli.parser``, so that help needs none of what these modules import.
"""
