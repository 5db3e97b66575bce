"""The parts of ``benchmarks/load.py``: a server that plays its jobs, clients in processes of their own, and figures."""
