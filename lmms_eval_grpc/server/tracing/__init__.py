"""Distributed traces by OpenTelemetry: one span per call, and a tree of spans per job. ``setup`` decides whether there
are any; only then are ``calls`` and ``jobs``, and OpenTelemetry itself, imported.
"""
