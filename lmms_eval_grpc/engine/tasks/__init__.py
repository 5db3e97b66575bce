"""Tasks: finding their YAML files, reading them, and turning one document into its requests.

:mod:`.index` names what there is without running any task's code (:mod:`.sources` says where to look,
:mod:`.index_files` reads one file's declaration, :mod:`.index_cache` remembers it); :mod:`.yaml_loader` and
:mod:`.functions` read one file and the Python functions it points to, which find lmms-eval's modules by :mod:`.shims`;
:mod:`.config` holds a task's fields; :mod:`.resolve` expands groups and tags; :mod:`.load` builds :class:`.task.Task`
objects and :class:`.group.Group` ones, :mod:`.python_tasks` those that are Python classes. :mod:`.document_values`,
:mod:`.messages`, :mod:`.prompts` and :mod:`.fewshot` make a document's messages. Reading data lives in
:mod:`lmms_eval_grpc.engine.data`, scoring in :mod:`lmms_eval_grpc.engine.scoring`.
"""
