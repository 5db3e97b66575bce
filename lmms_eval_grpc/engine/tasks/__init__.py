"""Tasks: finding their YAML files, reading them, and turning one document into one request.

:mod:`.index` names what there is without running any task's code; :mod:`.yaml_loader` and :mod:`.functions` read one
file and the Python functions it points to; :mod:`.config` holds a task's fields; :mod:`.resolve` expands groups and
tags; :mod:`.load` builds :class:`.task.Task` objects. Reading data lives in :mod:`lmms_eval_grpc.engine.data`,
scoring in :mod:`lmms_eval_grpc.engine.scoring`.
"""
