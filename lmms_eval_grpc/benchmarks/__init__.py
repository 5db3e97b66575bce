"""Benchmarks that ship with the package, as task YAML files with their functions and, where they are small, their data.

Each folder is one family of tasks, written exactly as tasks of lmms-eval would be, so that it doubles as an example;
its README names the source, the licence of the data and the metric. ``_shared`` holds what several of them use. Names,
prompts and metrics are those of lmms-eval, so that scores can be compared; where they differ, docs/compatibility.md
says so. There is no engine code here: a task's functions see documents and responses, nothing of models or runs.
"""
