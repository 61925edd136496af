"""The study `protocol`: how far this field's habits of measuring move the Fréchet distance, on the same images."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from core.extractors.features import write_features
from core.files import write_text_atomic
from core.metrics.frechet import frechet_distance_from_features
from core.metrics.intervals import frechet_interval
from eval.measure.image_sets import Images, ImageSet, read_image_set
from eval.measure.saved import Features, read_saved
from eval.pages.page import write_result
from eval.pages.tables import markdown_table, number, replace_between, span
from eval.studies.protocol_habits import FEW, HABITS, WIDE, Habit, gaussian_bias, mean_distance, random_features
from eval.twins.drawn import draw_from
from eval.twins.features import FeatureExtractor, open_extractor, open_features
from eval.twins.interpreters import ROOT, Framework, Interpreters, first_framework
from eval.verbs import main

log = logging.getLogger(__name__)

PAGE = ROOT / "docs" / "protocol.md"
BEGIN, END = "<!-- protocol: begin -->\n", "<!-- protocol: end -->\n"
SIZES = (100, FEW, 1000, 2000)
"""N of the second table."""
LARGE = (10_000, 50_000)
"""N for which the closed form alone is shown."""


@dataclass(frozen=True, kw_only=True)
class Protocol(Interpreters):
    """Measure the same images in ten ways, and against N, and write two tables.

    REAL and GENERATED are named as in `eval fid`. Features that were taken before are not taken again. It takes a
    minute on one core, and a run as GENERATED is drawn from first.

    Examples:
      python -m eval.studies.protocol runs/lenses runs/lenses
      python -m eval.studies.protocol runs/lenses runs/lenses --page docs/protocol.md
    """

    WORDS_FIRST: ClassVar = True

    real: str
    """Real images, twice --n of them. A run stands for the images held out of its training."""
    generated: str
    """Generated images, --n of them. A run stands for images drawn from it."""
    n: int = 2000
    """Images a side. Fewer take less time; at least 400."""
    out: Path = Path("runs/protocol")
    """Folder for the features, protocol.json and table.md."""
    page: Path | None = None
    """File whose tables are replaced; OUT/table.md where not given."""
    framework: Framework | None = None
    """Framework that takes the features and draws from a run; by default the first that is installed."""

    def __post_init__(self) -> None:
        if self.n < FEW:
            raise ValueError(f"--n {self.n}: must be at least {FEW}")

    def execute(self) -> str:
        """Take the features that are missing, measure, and write."""
        sets = self._images(first_framework(self.framework))
        features = self._features(sets)
        result = {
            "n": self.n,
            "real": self.real,
            "generated": self.generated,
            "sha256": {name: ImageSet(name, images).fingerprint() for name, images in sets.items()},
            "habits": {
                key: measure(features, key, habit)
                for key, habit in HABITS.items()
                if "training" in sets or not habit.training
            },
            "sizes": against_n(sets, features, [n for n in SIZES if n <= self.n]),
        }
        write_result(self.out / "protocol.json", result)
        target = self.page or self.out / "table.md"
        if self.page is None:
            write_text_atomic(target, tables(result) + "\n")
        else:
            replace_between(target, BEGIN, END, tables(result))
        return f"wrote {target}"

    def _images(self, framework: Framework) -> dict[str, Images]:
        """Real and other real images, generated ones, and those of the training where they are known."""

        def draw(run: Path) -> Path:
            return draw_from(run, self.n, framework)

        read = {"real": read_image_set(self.real, "real", draw)}
        read["generated"] = read_image_set(self.generated, "generated", draw)
        images = {name: np.asarray(one.all_images(), np.float32) for name, one in read.items()}
        for name, side, wanted in (("real", self.real, 2 * self.n), ("generated", self.generated, self.n)):
            if len(images[name]) < wanted:
                raise ValueError(f"{side}: {len(images[name]):,} images: must be at least {wanted:,}; lower --n")
        if images["real"].shape[1:] != images["generated"].shape[1:]:
            raise ValueError(f"{self.generated}: images of another size or number of channels than {self.real}")
        sets = {name: images[name][: self.n] for name in images} | {"other": images["real"][self.n : 2 * self.n]}
        others = read["real"].others
        if others is not None and len(others) >= self.n:
            sets["training"] = np.asarray(others[: self.n], np.float32)
        return sets

    def _features(self, sets: Mapping[str, Images]) -> dict[str, Features]:
        """The lens extractor's features of every set and of every changed set, from OUT or taken now."""
        extractor, found = open_extractor("lens"), {}
        wanted: dict[str, Images] = dict(sets)
        for key, habit in HABITS.items():
            changed = ("real", "other", "generated") if habit.both else ("other", "generated")
            wanted |= {f"{name} {key}": habit.change(sets[name]) for name in changed if habit.change}
        with open_features(extractor, first_framework(self.framework)) as (take, _):
            for name, images in wanted.items():
                found[name] = self._set(name, images, extractor, lambda x: take(x)["features"])
        return found

    def _set(
        self, name: str, images: Images, extractor: FeatureExtractor, take: Callable[[Images], Features]
    ) -> Features:
        """The features of one set. Its file is one that `eval fid` reads."""
        path, about = self.out / "features" / f"{name.replace(' ', '-')}.npz", extractor.about()
        key = {"extractor": about["name"], "weights_sha256": about["weights_sha256"], "resize": about["resize"]}
        key |= {"images_sha256": ImageSet(name, images).fingerprint()}
        held = read_saved(path)
        said = {} if held is None else {**held.about, **held.about.get("extractor", {})}
        if held is not None and held.features is not None and all(said.get(k) == key[k] for k in list(key)[1:]):
            return held.features
        log.info("features of %s", name)
        rows = take(images)
        write_features(path, {"features": rows}, key)
        return rows


def measure(features: Mapping[str, Features], key: str, habit: Habit) -> dict[str, Any]:
    """The distance of generated images, and that of other real images treated as the generated ones are.

    Args:
        features: by the name of a set, followed by the key of a habit that changed it.
        key, habit: an entry of HABITS.
    """
    after = f" {key}" if habit.change else ""
    real = features["training" if habit.training else f"real{after}" if habit.both else "real"]
    generated, other = features[f"generated{after}"], features[f"other{after}"]
    if habit.few:
        value, deviation = mean_distance(real, generated, FEW)
        return {"value": value, "deviation": deviation, "alike": mean_distance(real, other, FEW)[0]}
    interval = frechet_interval(real, generated)
    alike = frechet_distance_from_features(real, other)
    return {"value": interval.value, "low": interval.low, "high": interval.high, "alike": alike}


def against_n(
    sets: Mapping[str, Images], features: Mapping[str, Features], sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Distances at several N, in the lens extractor's features and in random ones."""
    wide = {name: random_features(sets[name]) for name in ("real", "other", "generated")}
    found = []
    for n in sizes:
        log.info("distances of %d images", n)
        rows = {"lens": features, "random": wide}
        found.append(
            {"n": n}
            | {
                f"{kind} {name}": mean_distance(of["real"], of[name], n)[0]
                for kind, of in rows.items()
                for name in ("generated", "other")
            }
        )
    return found


def tables(result: Mapping[str, Any]) -> str:
    """Both tables in Markdown, with a line before each."""
    sound = result["habits"]["sound"]["value"]
    rows = []
    for key, found in result["habits"].items():
        spread = (
            f"± {number(found['deviation'])}"
            if "deviation" in found
            else f"[{span(found['low'], found['high'], ', ')}]"
        )
        ratio = f"{found['value'] / sound:.2f}"
        rows.append([HABITS[key].what, f"{number(found['value'])} {spread}", ratio, number(found["alike"])])
    head = ["What was measured", "Generated images", "Over the first row", "Other real images, treated alike"]
    first = markdown_table(head, rows)
    rows = []
    for found in [*result["sizes"], *({"n": n} for n in LARGE)]:
        cells = [number(found.get(f"{kind} {name}")) for kind in ("lens", "random") for name in ("generated", "other")]
        rows.append([f"{found['n']:,}", *cells, f"{100 * gaussian_bias(found['n'], WIDE):.3g} %"])
    head = ["N", "Lens extractor, 128: generated", "other real", f"Random, {WIDE:,}: generated", "other real"]
    return f"{first}\n\n{markdown_table([*head, f'Two sets of N(0, I), {WIDE:,}: share of the variance'], rows)}"


if __name__ == "__main__":
    sys.exit(main(Protocol, "python -m eval.studies.protocol"))
