"""The verb `features`: an extractor's features of images, as a file for the Fréchet distance and other metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.command_line import name_the_word, read_flags
from core.config import ExtractorName, Resize
from core.twin import Device, Twin


@dataclass(frozen=True)
class FeaturesCommand:
    """Write the features of images to an .npz file: one (N, d) float32 array a tap, and `manifest`, a JSON text.

    A tap is a layer of the extractor whose output is kept. Images must have values in [0, 1], or integers, which are
    divided by their type's maximum. They are never rounded to 8 bits. inception takes three channels, so grey images
    are repeated; its weights are fetched once: python -m PACKAGE fetch inception.

    Examples:
      python -m PACKAGE features runs/mine/out --out generated.npz
      python -m PACKAGE features real.npy --extractor inception --taps 2048,logits_unbiased --out real.npz
    """

    images: str = ""
    """Folder or zip of pictures or .npy files, a .npy or .npz array, or a folder that `sample` wrote. The first word
    after `features` names it too."""
    out: str = ""
    """File to write, ending in .npz."""
    extractor: ExtractorName = "lens"
    """Feature network. lens was trained on simulated lenses and needs no download; inception is the network of the
    Fréchet Inception Distance. Take inception for natural images."""
    resize: Resize = "clean"
    """How images are resized to 299x299 pixels for inception. clean is antialiased bicubic, as in clean-fid; legacy is
    TensorFlow 1's bilinear, as in torch-fidelity. Distances compare only with the same choice on both sides."""
    taps: str = ""
    """Taps to keep, separated by commas. lens has features (default), parameters and logits. inception has 64, 192,
    768, 2048 (default), logits_unbiased and logits."""
    weights: str = ""
    """File of weights: safetensors, or the published file. Default: the fetched file."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the computation. The file is float32 in either case."""
    batch_size: int = 0
    """Images processed at a time; 0 chooses a number that fits into memory."""
    threads: int = 0
    """Number of CPU threads; 0 leaves it to the framework."""
    device: Device = "auto"
    """Where to compute. auto takes an NVIDIA GPU where there is one, and otherwise the CPU; mps is Apple's GPU."""
    overwrite: bool = False
    """Replace a file that is already there."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 0")


def features(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    argv = name_the_word(FeaturesCommand, argv, "features", "images", "source of images")
    command = read_flags(FeaturesCommand(), twin.package, argv, "features")
    if not command.images:
        raise ValueError("features: no images given; for example: features runs/mine/out --out features.npz")
    out = Path(command.out)
    if out.suffix != ".npz":
        raise ValueError(f"--out {command.out or '(none)'}: must be a file that ends in .npz")
    if out.exists() and not command.overwrite:
        raise ValueError(f"{out}: exists already; name another --out, or give --overwrite")
    from tqdm import tqdm

    from core.data.formats import describe
    from core.data.sources import open_source
    from core.extractors.features import EXTRACTORS, choose_taps, extract, first_batch_size, read_images, write_features
    from core.files import file_hash
    from core.reading import read_json

    taps, path = choose_taps(command.extractor, command.taps), Path(command.images)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    source = open_source(path)
    EXTRACTORS[command.extractor].check_channels(source.shape[2])
    samples = read_json(path / "manifest.json") if (path / "manifest.json").is_file() else None
    weights_file, weights = _weights(twin, command)
    twin = twin.on(command.device)
    twin.prepare(command.threads)
    extractor = twin.make_extractor(command.extractor, weights, command.resize, command.dtype)
    facts = twin.environment()
    batch_size = command.batch_size or first_batch_size(command.extractor, facts["device"], command.dtype)
    count = len(source.names)
    with tqdm(total=count, desc="features", unit="image", dynamic_ncols=True) as bar:
        found = extract(extractor, lambda a, b: read_images(source, a, b), count, batch_size, taps, bar.update)
    manifest = {
        "extractor": command.extractor,
        "resize": command.resize,
        "taps": taps,
        "n": count,
        "dtype": command.dtype,
        "weights": str(weights_file),
        "weights_sha256": file_hash(weights_file),
        "images": {"stored": describe(source.shape, source.dtype), **source.identity},
        "samples": samples,
        **facts,
    }
    write_features(out, found, manifest)
    print(f"wrote {out}: " + ", ".join(f"{tap} {rows.shape}" for tap, rows in found.items()))
    return 0


def _weights(twin: Twin, command: FeaturesCommand) -> tuple[Path, dict[str, Any]]:
    """The file of weights, and its arrays by name."""
    from core.extractors.features import default_weights, read_weights
    from core.reading import read_tensors

    if not command.weights:
        return default_weights(command.extractor)
    path, published = Path(command.weights), twin.published()
    if command.extractor not in published and path.suffix != ".safetensors":
        raise ValueError(f"--weights {path}: must be a .safetensors file for --extractor {command.extractor}")
    reader = published[command.extractor].read if command.extractor in published else read_tensors
    return path, read_weights(command.extractor, path, reader)
