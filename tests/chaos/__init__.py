"""Damaged files against every reader: `python -m tests.chaos --help`.

mutations.py damages the bytes of a file, readers.py lists the readers, __main__.py runs cases and judges the outcomes.
corpus/ keeps the files that once failed.
"""
