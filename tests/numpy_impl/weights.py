"""Pickles are PyTorch's to read."""

from core.checkpoints.importing import refuse_pickle as read_pickle

__all__ = ["read_pickle"]
