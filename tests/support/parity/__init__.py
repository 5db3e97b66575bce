"""The same documents and the same model for lmms-eval and for this engine, to compare their scores.

``documents`` makes the documents, ``store`` keeps them as files that stand for data sets of the hub, ``reader`` is a
model that reads its answers in what it is shown, ``recorded`` is the form in which either side's results are kept,
``ours`` runs this engine, ``comparison`` finds what differs. ``store`` and ``reader`` run in lmms-eval's environment
too.
"""
