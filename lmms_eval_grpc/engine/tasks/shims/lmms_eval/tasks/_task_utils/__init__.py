"""Helpers that task code shares, for tasks outside of an lmms-eval tree."""
