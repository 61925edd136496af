"""Metrics on features, images and matrices, in float64 NumPy and SciPy.

This room imports core.random and core.spd, and no framework.
"""
