"""Symmetric positive definite matrices: their chart, the checks of given matrices, and simulated laws.

Everything is NumPy in float64. This room imports core.random and core.reading, and no framework and no other room.
"""
