"""Pairs: the image that stands beside each image of a set. Files pair by name or order; a degraded image is made."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from core.config import DEGRADED, DataConfig
from core.data.formats import Image
from core.data.lens_optics import blur_matrix
from core.data.pixels import AROUND_UNIT
from core.data.source import Source
from core.data.sources import open_source
from core.random import gaussian

NAMED = 3
"""Names of images without a partner in a message."""


def open_beside(config: DataConfig, source: Source, channels: int) -> Source | None:
    """The source of the images beside those of `source`, in its order; None for images that are made of them.

    Args:
        config: its beside keys are read.
        source: the images of config.source as they are stored.
        channels: channels of the images beside.
    Raises:
        ValueError: the images beside cannot be opened, or do not pair.
    """
    if config.beside == DEGRADED:
        return None
    if not Path(config.beside).exists():
        raise ValueError(f"data.beside = {config.beside}: no such file or folder")
    return paired(
        config.beside, open_source(config.beside, channels, "model.condition_channels"), config.source, source
    )


def paired(where: str, beside: Source, source_where: str, source: Source) -> Source:
    """The images `beside` in the order of the images of `source`; `where` and `source_where` name both in messages.

    Folders and zips pair by the names of their files, without folders that all files share and without suffixes. All
    other sources pair by order.

    Raises:
        ValueError: a folder beside a file of many images, an image without a partner, or two files of one name.
    """
    if beside.one_a_file != source.one_a_file:
        raise ValueError(
            f"data.beside = {where}: must be {_kind(source)}, as data.source = {source_where} is; found {_kind(beside)}"
        )
    if not source.one_a_file:
        if len(beside.names) != len(source.names):
            raise ValueError(
                f"data.beside = {where}: {len(beside.names)} images: must be {len(source.names)}, one beside each of "
                f"{source_where}, in the same order"
            )
        return dataclasses.replace(beside, labels=None, class_names=(), parameters={})
    own, others = _places(source_where, source.files), _places(where, beside.files)
    for rest, what in (
        (own.keys() - others.keys(), f"images of {source_where} have none beside them"),
        (others.keys() - own.keys(), f"images stand beside none of {source_where}"),
    ):
        if rest:
            few = ", ".join(sorted(rest)[:NAMED])
            raise ValueError(f"data.beside = {where}: {len(rest)} {what}: {few}{', ...' if len(rest) > NAMED else ''}")
    order = [others[name] for name in own]
    digest = hashlib.sha256(json.dumps(order).encode()).hexdigest()
    return dataclasses.replace(
        beside,
        names=[beside.names[place] for place in order],
        fetch=lambda index: beside.fetch(order[index]),
        labels=None,
        class_names=(),
        parameters={},
        identity={**beside.identity, "order": digest},
    )


def _kind(source: Source) -> str:
    return "a folder or zip of images" if source.one_a_file else "one file of images, or simulated images"


def _places(where: str, files: Sequence[str]) -> dict[str, int]:
    """The place of each file of a folder or zip by the name that pairs it; insertion follows the files' order."""
    paths = [PurePosixPath(file) for file in files]
    levels = zip(*(path.parent.parts for path in paths), strict=False)
    shared = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))
    found: dict[str, int] = {}
    for place, path in enumerate(paths):
        name = str(PurePosixPath(*path.parts[shared:]).with_suffix(""))
        if name in found:
            raise ValueError(f"{where}: {files[found[name]]} and {files[place]} have one name, which pairs images")
        found[name] = place
    return found


def degraded(config: DataConfig, images: npt.NDArray[np.float32], sha256: str) -> Source:
    """Images blurred by a Gaussian, averaged over larger pixels, with Gaussian noise.

    The blur comes on top of the image's own. The noise of an image depends on data.simulate_seed and its index.

    Args:
        config: its beside keys, field_of_view and simulate_seed are read.
        images: (N, H, W, C) in [0, 1].
        sha256: sum of the images.
    """
    count, *size, channels = images.shape
    pixel = config.field_of_view / min(size)
    factors = [side // small for side, small in zip(size, config.beside_size, strict=True)]
    rows, columns = (
        blur_matrix(small, factor, pixel * factor, config.beside_psf)
        for small, factor in zip(config.beside_size, factors, strict=True)
    )
    shape = (*config.beside_size, channels)

    def fetch(index: int) -> Image:
        # Plain einsum, not `@`: BLAS threads cost far more than they give in products this small.
        seen = np.einsum("wj,hjc->hwc", columns, np.einsum("hi,ijc->hjc", rows, images[index]))
        noise = gaussian(config.simulate_seed, "beside_noise", [index], 0, shape)[0]
        noisy: Image = np.clip(seen + config.beside_noise * noise, *AROUND_UNIT).astype(np.float32)
        return noisy

    options = {key: getattr(config, key) for key in ("beside_psf", "beside_noise", "field_of_view", "simulate_seed")}
    identity = {"path": DEGRADED, "of": sha256, "count": count, **options}
    names = [f"{DEGRADED}[{index}]" for index in range(count)]
    return Source(names, shape, np.dtype(np.float32), fetch, identity=identity)
