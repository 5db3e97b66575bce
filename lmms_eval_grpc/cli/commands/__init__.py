"""One module per command (or per noun), each with ``run(args, output) -> int``, the exit code.

Their arguments are declared in ``cli.parser`` and the ``cli.flags_…`` modules, so that help needs none of what these
modules import.
"""
