"""Hints for mistyped names: the known option or key of the same meaning, else the one that is spelled most alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SAME = (
    ("batch_size", "batch", "bs", "batchsize"),
    ("checkpoint", "ckpt", "model", "resume"),
    ("guidance", "cfg", "cfg_scale", "guidance_scale"),
    ("learning_rate", "lr", "rate"),
    ("n", "count", "simulate_count", "num", "number", "num_samples", "num_images"),
    ("out", "run", "output", "outdir", "output_dir", "save_dir", "dir"),
    ("overwrite", "fresh", "force"),
    ("sample_size", "size", "image_size", "resolution"),
    ("source", "images", "data", "dataset", "data_dir", "path"),
    ("steps", "epochs", "iterations", "iters", "max_steps", "num_steps", "num_inference_steps"),
    ("threads", "workers", "num_workers", "cpus"),
)
"""Names of one meaning, as other software has them."""


def nearest(name: str, names: Iterable[str], more: Iterable[str] = ()) -> str:
    """A hint such as '; did you mean batch_size?', or '' where nothing is near.

    Args:
        name: the mistyped name, such as lr, training.lr or trainig.steps.
        names: the known names.
        more: names that are looked at where none of `names` has the meaning.
    """
    known, others = list(names), list(more)
    close = _same(name, known) or _same(name, others) or _spelled(name, known) or _spelled(name, others)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _same(name: str, names: list[str]) -> list[str]:
    """At most two names of the same meaning, which the last parts of dotted names tell."""
    last, known = name.split(".")[-1], [other for other in names if other != name]
    words = next((group for group in SAME if last in group), ())
    found = [other for other in known if other.split(".")[-1] == last]
    found = found or [other for other in known if other.split(".")[-1] in words]
    return difflib.get_close_matches(name, found, n=1, cutoff=0) if "." in name else found[:2]


def _spelled(name: str, names: list[str]) -> list[str]:
    """The name that is spelled most alike, as a whole or in its last part."""
    by_last = {other.split(".")[-1]: other for other in reversed(names)}
    last = difflib.get_close_matches(name.split(".")[-1], by_last, n=1, cutoff=0.6)
    return difflib.get_close_matches(name, names, n=1, cutoff=0.5) or [by_last[close] for close in last]
