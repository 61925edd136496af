"""Metrics on features and images, in float64 NumPy and SciPy. This room imports core.random, and no framework."""
