"""Where jobs run. An executor takes a job and devices, and yields what the job's worker reports.

``local`` runs workers on this machine, forked from a warm template process; ``ray`` (later) places them in a cluster.
What runs when is the scheduler's business, what a worker does is ``worker``'s.
"""
