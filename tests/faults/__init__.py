"""Faults, one kind at a time and many at random, against real servers, templates, workers and clients."""
