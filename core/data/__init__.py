"""Data: simulated lenses, files on disk, the prepared cache and the order of samples.

This room imports core.config, core.files, core.reading, core.images, core.random and core.command_line, and no
framework; pillow, gdown and tqdm are imported where they are used.
"""
