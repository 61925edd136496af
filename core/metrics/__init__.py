"""Metrics on features and images, in float64 NumPy and SciPy: no network, no framework, no other room."""
