"""The verdict on a comparison: which optimizer, at which learning rate, by how much, and how sure that is.

Reading order: ``entries`` (the runs in a folder, as they are found), ``judge`` (the statistics, as plain data),
``sentences`` (what may honestly be said of them), ``pictures`` (PNGs), ``report`` (the page, and all files together).
In: a folder of runs of which any may be missing, cut short or diverged. Out: a ``Verdict`` and files. Trains nothing.
"""
