"""Records: what an evaluation leaves on disk.

Per-sample records, the results document in lmms-eval's layout, and the manifest of everything that the scores depend
on; all written whole (a temporary file, then a rename) and as JSON that any language can read. Computes no score.
"""
