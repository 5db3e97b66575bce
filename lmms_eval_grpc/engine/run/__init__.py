"""The run loop: plan, load, generate, score as answers come, aggregate, write; and begin again where a crash left off.

``evaluate`` tells that story, ``preparation`` its beginning, which needs no model, and ``task_run`` its middle, one
task's way from open questions to its score. ``log`` is the append-only record of every answer, from which resuming,
cancelling with partial results and re-scoring all follow; ``sample_file`` is the file of scored samples, and
``sample_records`` what it tells beside scores. ``answers`` asks the model in the way that a task's output type wants,
``requests`` builds requests one at a time, while they are needed, ``episodes`` leads conversations of several rounds.
``cached_backend`` keeps from the model what the ``response_cache`` knows, by the ``request_key`` that says which
requests are the same. ``progress`` counts; ``policy`` decides how many failed samples a score may bear and how many
tokens a job.

Nothing here knows how a model generates or a sample is scored, and nothing knows jobs, queues or gRPC.
"""
