"""The use of a trained network: sampling, editing and likelihood.

sampling.py has the protocols that a twin implements, keyed noise and batches; conditioning.py builds conditions.
generator.py is the interface for users, over edits.py and editing.py (edits of images) and likelihood.py.
given_images.py reads images for edits and likelihood; samples.py writes the files of drawn images.
This room imports core.config, core.data, core.diffusion, core.checkpoints, core.files, core.reading, core.images,
core.random, core.command_line and core.twin, and no framework; tqdm is imported where it is used.
"""
