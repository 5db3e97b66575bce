"""The run loop: plan, load, generate, score as answers come, aggregate, write; and begin again where a crash left off.

``evaluate`` tells that story. ``log`` is the append-only record of every answer, from which resuming, cancelling with
partial results and re-scoring all follow; ``sample_file`` is the file of scored samples; ``answers`` asks the model in
the way that a task's output type wants, ``requests`` builds requests one at a time, while they are needed, ``episodes``
leads conversations of several rounds; ``progress`` counts; ``policy`` decides how many failed samples a score may bear.

Nothing here knows how a model generates or a sample is scored, and nothing knows jobs, queues or gRPC.
"""
