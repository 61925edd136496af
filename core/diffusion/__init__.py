"""The mathematics of diffusion in float64 NumPy: schedules, process tables, sampling tables, the bound.

This room imports core.config and core.random, and no framework. One file holds one family of samplers.
"""
