"""Comparison, distances, speed, parity and the pages that show them.

No module here imports a framework or a twin. The twins are programs that `eval.twins` starts in their own environments.
"""
