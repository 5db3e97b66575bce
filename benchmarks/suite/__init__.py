"""The benchmarks beside lmms-eval: ``scripts/benchmark``, or ``python -m benchmarks.suite``."""
