"""The page of eval/studies/results.py, in Markdown, from the runs' own files. Imports NumPy and eval's own modules."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.config import Recipe
from core.networks.specs import count_parameters
from eval.pages.compare_page import number

COMMAND = "python -m eval.studies.results --page docs/results.md"
TITLES = {"lensing": "Simulated lenses, 64 x 64", "fashion-mnist": "Fashion-MNIST, 32 x 32"}
NOTES = {
    "lensing": (
        "Strong lenses of the simulator's `lensing` preset, one channel, 7.5 arcsec a side. The distance is taken in the "
        "128 features of the lens extractor, which was trained on such images (docs/lens-extractor.md): it is no Inception "
        "FID and cannot be set beside one."
    ),
    "fashion-mnist": (
        "The 60,000 training images of Fashion-MNIST, padded with zeros from 28 to 32 pixels, and a network that is told the "
        "class; the classes are drawn in turn. A tenth is held out by the hash of the pixels, so that of equal images none "
        "is on both sides; the set's own 10,000 test images are not touched. No network that this software brings along "
        "knows clothes, so the features are the pixels of 16 x 16 thumbnails: they see shape, brightness and variety, "
        "but no detail finer than two pixels, for which the power spectrum stands below. This is no FID and cannot be set "
        "beside one; with Inception's weights fetched (`python -m torch_impl fetch inception`), `--extractor inception` in "
        "the last commands gives the FID."
    ),
}
BESIDE = ("power_spectrum", "pixel_values")
"""Of compare.json: what sees details that the features may not."""


@dataclass(frozen=True)
class Found:
    """One network: what its files say."""

    recipe: Recipe
    seconds: float
    """Of its training."""
    metrics: list[dict[str, Any]]
    environment: dict[str, Any]
    manifest: dict[str, Any]
    """Of its images."""
    result: dict[str, Any]
    """Of `eval fid`."""
    commands: list[str]


@dataclass(frozen=True)
class Outcome:
    """One set of images."""

    name: str
    found: Mapping[str, Found]
    """Framework's title -> its network."""
    beside: Mapping[str, Any]
    """compare.json."""
    counts: Mapping[str, int]
    """Images to train on, and held out."""
    picture: str


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def distances(outcome: Outcome) -> str:
    """Everything that was measured, a framework a column, and what real images score."""
    results = {title: found.result for title, found in outcome.found.items()}
    first = next(iter(results.values()))
    extractor, floor = first["extractor"], first["floor"]

    def row(label: str, cell: Any, real: str = "") -> list[str]:
        return [label, *(cell(result) for result in results.values()), real]

    def frechet(result: Mapping[str, Any]) -> str:
        value = result["frechet"]
        return f"**{number(value['value'])}** [{number(value['low'])}, {number(value['high'])}]"

    def share(name: str) -> list[str]:
        return row(name.capitalize(), lambda result: f"{result[name]:.3f}")

    what = f"{extractor['features']} features of {extractor['name']}"
    rows = [
        row(f"Fréchet distance, {what} [95 % interval]", frechet, f"{number(floor['mean'])} ± {number(floor['std'])}"),
        row("in multiples of the floor", lambda r: f"{r['frechet']['value'] / r['floor']['mean']:.1f}", "1"),
    ]
    if first["infinity"]:
        rows.append(row("extrapolated to infinite N", lambda r: _plus_minus(r["infinity"]), "0"))
    rows.append(row("KID, ± standard error", lambda r: _plus_minus(r["kid"]), "0 in the mean"))
    rows += [share(name) for name in ("precision", "recall", "density", "coverage")]
    if "lens" in first:
        side = next(iter(outcome.found.values())).recipe.data.field_of_view
        for name, label, unit in (("theta_e", "Einstein radius, Wasserstein, arcsec", side), ("gamma1", "Shear, Wasserstein", 1.0)):  # fmt: skip
            entries = {id(r): r["lens"]["parameters"][name] for r in results.values()}
            rows.append(row(label, lambda r, e=entries, u=unit: number(u * e[id(r)]["value"]), number(unit * first["lens"]["parameters"][name]["floor"])))  # fmt: skip
    for metric in outcome.beside["metrics"]:
        if metric["key"] in BESIDE:
            cells = [number(metric["sets"][title]["mean"]) for title in results]
            rows.append([metric["label"], *cells, number(metric["floor"]["mean"])])
    nearest = outcome.beside["nearest"]["sets"]
    shares = [f"{100 * nearest[title]['share_closer']:.1f} %" for title in results]
    rows.append(["Nearer to a training image than 99 % of the held-out ones are", *shares, "1 %"])
    return table([f"N = {first['n']:,}", *results, "real against real"], rows)


def _plus_minus(entry: Mapping[str, float]) -> str:
    return f"{number(entry['value'])} ± {entry['standard_error']:.1g}"


def costs(outcome: Outcome) -> str:
    """What it took, a framework a column."""

    def row(label: str, cell: Any) -> list[str]:
        return [label, *(cell(found) for found in outcome.found.values())]

    def speed(found: Found) -> str:
        return f"{statistics.median(line['images_per_second'] for line in found.metrics):.0f}"

    def pace(found: Found) -> str:
        drawn = found.manifest
        return f"{1000 * drawn['seconds'] / drawn['n'] / drawn['nfe']:.2f}"

    rows = [
        row("Training, s", lambda f: f"{f.seconds:,.0f}"),
        row("images/s in training, median of the log's lines", speed),
        row("Drawing, s", lambda f: f"{f.manifest['seconds']:,.0f}"),
        row("ms an image and evaluation", pace),
        row("version", lambda f: str(f.environment["version"])),
        row("threads", lambda f: str(f.environment["threads"])),
    ]
    return table(["", *outcome.found], rows)


def section(outcome: Outcome) -> str:
    """One set: what it is, the picture, both tables, the commands."""
    one = next(iter(outcome.found.values()))
    training, manifest = one.recipe.training, one.manifest
    seen = training.steps * training.batch_size
    about = (
        f"{count_parameters(one.recipe.model):,} parameters, {one.recipe.process.prediction}-prediction, "
        f"{one.recipe.process.schedule} schedule; {training.steps:,} steps of {training.batch_size}, that is {seen:,} images out "
        f"of {outcome.counts['train']:,} to train on, with {outcome.counts['held out']:,} held out; images drawn by "
        f"{manifest['sampler']} with {manifest['nfe']} evaluations of the network (NFE) on grid {manifest['spacing']}, averaged weights, seed {manifest['seed']}. "
        f"Recipe: `configs/results-{outcome.name}.toml`."
    )
    warnings = {text for found in outcome.found.values() for text in found.result["warnings"]}
    parts = [
        f"## {TITLES[outcome.name]}", NOTES[outcome.name], about,
        f"![Real images, PyTorch's and TensorFlow's side by side]({outcome.picture})",
        "*The first images of each, not selected.*", distances(outcome), costs(outcome),
    ]  # fmt: skip
    parts += [f"`eval fid` warns: {text}" for text in sorted(warnings)]
    commands = "\n".join(line for found in outcome.found.values() for line in found.commands)
    return "\n\n".join([*parts, f"```sh\n{commands}\n```"])


def page(outcomes: Sequence[Outcome], machine: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        outcomes: one a set.
        machine: eval.measure.speed.machine's account of the hardware.
    """
    variables = "".join(f", {name}={value}" for name, value in machine["set"].items())
    head = f"""# Results

```sh
{COMMAND}        # goes on where it was cut off
```

The command trains the same recipe in both frameworks, draws from both with the same noise, measures, and writes this page
from the runs' own files. Each set's commands stand below its tables. These are small networks after minutes of
training: the figures say what the software does on a few CPU cores, not what diffusion can reach.

Hardware: {machine["processor"]}, {machine["cores"]} cores, {machine["system"]}, no GPU{variables}. The machine was shared with other work: times
and speeds are what happened, not a benchmark, and the two frameworks were not timed in turn (`python -m eval benchmark`
does that). Both see the same batches and the same noise in float32; their trainings drift apart in the last bits, so the two
columns are two networks, and what lies between them is chance unless the intervals say otherwise."""
    reading = """## Reading the tables

Every distance is of N generated to N held-out real images and stands beside its floor: what N real images score
against N others (mean ± standard deviation over five draws of training images). The interval is a delete-a-group jackknife
over the images of both sets; it does not cover another training's seed. Precision and density say how many generated images
lie where real ones are, recall and coverage how much of the real set is reached. Power spectrum (0 is the same, 1
nothing in common) and pixel values (Wasserstein, intensity) are those of `eval compare`, against held-out images and with a
held-out floor. Copies of training images would show in the last row, whose value for unseen images is 1 %."""
    return "\n\n".join([head, *(section(outcome) for outcome in outcomes), reading]) + "\n"
