"""The checks of ``doctor``: small functions from a set-up, or from a running server, to findings.

What lives here: ``finding`` (what a check says), ``setup`` (what is checked), ``configuration``, ``packages``,
``machine``, ``devices``, ``storage``, ``network``, ``hub``, ``certificates`` and ``evaluation`` (the checks of a
set-up), ``running`` (those of a server that runs), and ``run`` (all of them in order). Nothing is changed, but for
files that are made and removed again to see whether that can be done.
"""
