"""Records: what an evaluation leaves on disk, and what is made of that later.

Per-sample records, the results document in lmms-eval's layout, and the manifest of everything that the scores depend
on; all written whole (a temporary file, then a rename) and as JSON that any language can read. :mod:`.stored` reads
them back, and lmms-eval's too; :mod:`.rescore` scores stored responses anew, :mod:`.comparison` compares two runs. No
metric and no statistic is defined here.
"""
