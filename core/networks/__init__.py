"""Networks as data: every parameter's name, shape and initialiser; a twin builds its layers from it.

This room imports core.config and core.random, and no framework. Each architecture has one file and one row in specs.py.
"""
