"""Hooks that submit checkpoints from training frameworks and bring the scores back.

What lives here: one module per framework, each importing its framework, none imported by the others. What does not: the
client itself, and anything that runs on the server.
"""
