"""Feature extractors as data: Inception and the lens extractor, their parameters, inputs and weights.

This room imports core.config, core.data, core.metrics, core.networks.parameters, core.files, core.reading,
core.images and core.random, and no framework.
"""
