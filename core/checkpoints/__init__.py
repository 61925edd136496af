"""Networks on disk: checkpoints, run folders, and networks and schedulers in diffusers' words.

This room imports core.config, core.diffusion.schedules, core.networks.specs, core.files and
core.reading, and neither a framework nor diffusers; safetensors is imported where a file is read or written.
"""
