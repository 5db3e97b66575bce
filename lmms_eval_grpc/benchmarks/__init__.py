"""Benchmarks that ship with the package, as task YAML files with their data beside them.

Each folder is one task, written exactly as a task of lmms-eval would be, so that it doubles as an example. Everything
here loads offline from an installed wheel. There is no engine code here: task functions use the standard library only.
"""
