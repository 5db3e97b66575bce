"""Where jobs run. An executor takes a job and devices, and yields what the job's worker reports.

``local`` runs workers on this machine, forked from a warm template process: ``local_worker`` is one job in one of them,
``prepared`` are workers of jobs that still wait, ``residents`` those that keep their model after a job; ``ray`` (later)
places jobs in a cluster.
What runs when is the scheduler's business, what a worker does is ``worker``'s.
"""
